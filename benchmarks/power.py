"""Power of a scale's claims, from the seeds that its recipes were chosen on, before any seed that is judged has run.

``python benchmarks/power.py --tuning small-tuning --scale small`` reads the finished runs of the tuning scale and prints, for each claim of
the suite that is judged at the other one, the gain over the tuning seeds and the chance that so many judged seeds decide it, if the gain is
what it was there. The level is the strictest that Holm's correction can ask for: 5 % divided by the number of claims.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from m2mkd.config import load  # noqa: E402
from m2mkd.config.claims import Claim, load_claims  # noqa: E402
from m2mkd.results.read.collect import Collected  # noqa: E402
from m2mkd.statistics import power_of_t_test, summarise  # noqa: E402
from m2mkd.study.plan import build_study  # noqa: E402

SEEDS = (6, 8, 10)


def gains(collected: Collected, claim: Claim) -> list[float]:
    """Gain of each tuning seed in points; of a claim that compares two arms of one experiment."""
    split, _, metric = claim.metric.partition("_")
    rows = {(row.experiment, row.variant): row for row in collected.study.rows}
    (members,) = claim.members()
    one, other = (collected.numbers.cells(rows[member], split, metric)[0] for member in members)
    assert one.seeds == other.seeds, claim.id
    return [100 * (a - b) for a, b in zip(one.per_seed, other.per_seed, strict=True)]


def main(tuning: Annotated[str, typer.Option()] = "small-tuning", scale: Annotated[str, typer.Option()] = "small") -> None:
    """Print a table in Markdown."""
    study = build_study(load.settings({"scale": tuning}))
    collected = Collected.read(study)
    planned = {row.experiment for row in study.rows}
    claims = [claim for claim in load_claims() if claim.scale == scale and set(claim.population) <= planned]
    level = 1 - 0.05 / len(claims)
    chances = " | ".join(f"power, {seeds} seeds" for seeds in SEEDS)
    sys.stdout.write(f"Tuning seeds {', '.join(map(str, study.seeds))}; level of the intervals {100 * level:.4g} %.\n\n")
    sys.stdout.write(f"| claim | gain, points | standard deviation | {chances} |\n|---|--:|--:|{'--:|' * len(SEEDS)}\n")
    for claim in claims:
        over = summarise(gains(collected, claim))
        assert over.std is not None
        powers = " | ".join(f"{100 * power_of_t_test(abs(over.mean), over.std, seeds, level):.0f} %" for seeds in SEEDS)
        sys.stdout.write(f"| `{claim.id}` | {over.mean:+.2f} | {over.std:.2f} | {powers} |\n")


if __name__ == "__main__":
    typer.run(main)
