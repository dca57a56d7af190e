"""The verdict board as a table, as metrics for DVC, and in words for one claim."""

from collections.abc import Sequence

import pandas as pd

from m2mkd.config.claims import Claim
from m2mkd.results.judge.arms import Arm, Seed, members_of
from m2mkd.results.judge.board import Finding
from m2mkd.results.tables.commands import Commands
from m2mkd.results.tables.layout import Linked, Table, percent
from m2mkd.statistics import BOOTSTRAP_FROM, bootstrap_interval, sign_test
from m2mkd.study.study import Study

CAPTION = (
    "Claims and verdicts. Intervals over at least six seeds decide, by Student's t and for relative gains by Fieller's theorem (wider ones "
    "where the claim is about a maximum, or one of many members would fail), of a teacher's one run the exact binomial one. The first "
    "is of one claim alone (95 %); that in brackets decides: those of all claims of this board hold at once with 95 %. Reproduced is "
    "what holds in typical seeds and, however many of the others collapse, on average. A claim of the paper is judged at the paper's scale "
    "alone: smoke-pass and smoke-fail say whether all its runs work at another, and nothing about the paper."
)


def claim_anchor(claim: Claim) -> str:
    """Id of a claim in the report."""
    return f"claim-{claim.id}"


def claims_table(findings: Sequence[Finding]) -> Table:
    """Table with a line for each claim."""
    exact, shown = [], []
    for finding in findings:
        claim, verdict, measured = finding.claim, finding.verdict, finding.verdict.measured
        exact.append(
            {
                "id": claim.id,
                "verdict": verdict.word,
                "subject": claim.subject,
                "metric": claim.metric,
                "comparison": claim.comparison,
                "aggregate": claim.aggregate,
                "direction": claim.direction,
                "claimed": claim.size,
                "tolerance": claim.tolerance,
                "unit": claim.unit,
                "status": claim.status,
                "scale": claim.scale,
                "profile": claim.profile,
                "seeds_needed": claim.seeds,
                "seeds": finding.seeds,
                "estimate": measured and measured.single.estimate,
                "low": measured and measured.single.low,
                "high": measured and measured.single.high,
                "at_once": finding.at_once,
                "low_at_once": measured and measured.typical.low,
                "high_at_once": measured and measured.typical.high,
                "p_exact": finding.p_value,
                "gpu_hours_to_judge": finding.cost,
                "runs": len(finding.runs),
                "outdated_runs": len(finding.outdated),
                "labelled_images": "unequal" if finding.unequal else "equal",
                "why": finding.why,
                "needs": verdict.needs,
                "claim": claim.claim,
                "source": claim.source,
            }
        )
        name = Linked(claim.id, claim_anchor(claim))
        seeds = f"{finding.seeds} of {_seeds(claim)}"
        exact_p = "" if finding.p_value is None else f"{finding.p_value:.4g}"
        shown.append((name, verdict.word, claim.claim, claimed(claim), finding.why, verdict.needs, seeds, exact_p))
    header = ("claim", "verdict", "what is claimed", "claimed", "why", "what would decide it", "seeds", "exact p")
    return Table("claims", CAPTION, header, tuple(shown), pd.DataFrame(exact))


def claimed(claim: Claim) -> str:
    """Claimed size and its status, in a few words."""
    unit = {"points": " points", "relative": " % of the baseline", "unstated": " (unit not stated)"}[claim.unit]
    one, other = ("A - B", "C - D") if len(claim.arms) == 4 else ("A", "B")
    what = {
        "greater": f"{one} > {other}" + (f" by {claim.size:g}{unit}" if claim.size is not None else ""),
        "equal": f"{one} = {other} within {claim.tolerance:g}{unit}",
        "value": f"{claim.size or 0.0:g} %",
    }[claim.direction]
    return f"{what}, {claim.status}"


def _seeds(claim: Claim) -> str:
    return f"{claim.seeds} {'seed' if claim.seeds == 1 else 'seeds'}"


def in_words(arm: Arm) -> str:
    """The accuracies of an arm, seed by seed."""
    seeds = (f"{_name(seed)}: {'missing' if seed.accuracy is None else percent(seed.accuracy)}" for seed in arm.seeds)
    return f"{arm.name} ({arm.profile}), {'seed' if len(arm.seeds) == 1 else 'seeds'} {', '.join(seeds)}"


def _name(seed: Seed) -> str:
    return "all" if seed.seed is None else str(seed.seed)


def commands_of(commands: Commands, finding: Finding) -> list[str]:
    """Commands, one for each experiment, that compute the missing runs of a claim."""
    return [commands.to(name) for name in dict.fromkeys(arm.experiment for arm in members_of(finding.comparisons))]


def explanation(study: Study, finding: Finding) -> str:
    """Evidence of a verdict, as lines of text: numbers, runs, digests and commands."""
    claim, verdict = finding.claim, finding.verdict
    about = "the paper" if claim.subject == "paper" else "this suite"
    lines = [
        f"{claim.id}: {verdict.word}",
        "",
        claim.claim,
        f"  source      {claim.source} ({claim.status})",
        f"  about       {about}; judged at scale {claim.scale}, profile {claim.profile}",
        f"  comparison  {claim.comparison}, {claim.metric}, {claim.aggregate} of {', '.join(claim.population)}",
        f"  claimed     {claimed(claim)}, tolerance {claim.tolerance:g}, at least {_seeds(claim)}",
        "",
        finding.why,
    ]
    if verdict.needs:
        lines.append(f"What would decide it: {verdict.needs}")
    if finding.p_value is not None:
        lines.append(f"Besides: exact sign-flip test, of this claim alone, p = {finding.p_value:.4g}.")
    lines += _besides(finding)
    for arm in members_of(finding.comparisons):
        lines += ["", f"{arm.name} ({arm.profile})"]
        for seed in arm.seeds:
            accuracy = seed.problem or "not measured" if seed.accuracy is None else f"{percent(seed.accuracy)} %"
            record = f"  record sha256 {seed.record[:16]}" if seed.record else ""
            lines.append(f"  seed {_name(seed)}  {accuracy}  {study.folder(seed.run)}{record}")
    if finding.runs:
        lines += ["", f"{len(finding.runs)} runs in all; 'm2mkd runs show RUN' explains one. To compute what is missing:"]
        lines += [f"  {command}" for command in commands_of(Commands(study), finding)]
    return "\n".join(lines)


def _besides(finding: Finding) -> list[str]:
    """Additional tests of each member of the population that need more seeds than most studies have; they decide nothing."""
    lines = []
    for pair in finding.pairs if finding.p_value is not None else ():
        found = f"{pair.name}, besides: exact sign test p = {sign_test(pair.differences):.4g}"
        if len(pair.treated) >= BOOTSTRAP_FROM:
            interval = bootstrap_interval(pair.differences)
            found += f"; bootstrap (BCa) of the gain in points [{interval.low:+.2f}, {interval.high:+.2f}]"
        lines.append(f"{found}.")
    return lines
