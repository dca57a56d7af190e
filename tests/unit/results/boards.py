"""Fabricated studies of two students, and what the verdict board finds of them."""

from pathlib import Path

from m2mkd.config.claims import Claim, load_claims
from m2mkd.results.judge.board import Finding, verdict_board
from m2mkd.results.judge.results import Results
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from tests.fabricated import finish, plan

STUDENTS = ("vmoe_base/end_to_end", "vmoe_base/m2mkd")
GAINS = (0.020, 0.021, 0.022, 0.019, 0.018, 0.023)
"""Of m2mKD over from scratch, by seed."""
GAIN = {
    "claim": "Modules help.",
    "family": "vmoe",
    "metric": "iid_top1",
    "comparison": "m2mkd - end_to_end",
    "direction": "greater",
    "scale": "small",
    "verdict": "reproduced",
    "decided": True,
    "needs": "",
    "seeds": 6,
    "at_once": 3,
    "unit": "points",
    "estimate": 4.21,
    "low": 3.0,
    "high": 5.4,
    "low_at_once": 2.04,
    "high_at_once": 6.4,
    "differences": {"vmoe_base": [[10, 4.0], [11, 4.42]]},
}
"""What ``claims.json`` says of one claim."""


def gaining(study: Study, gains=GAINS):
    """Accuracies in which m2mKD gains so much over 90 %."""
    treated = {run_id for row in study.rows if row.variant == "m2mkd" for run_id in row.measured}
    return lambda run, seed: 0.9 + (gains[seed % len(gains)] if run.id in treated else 0.0)


def fabricate(root: Path, scale: str = "small", gains=GAINS, seeds: int = 6, **changes) -> Study:
    """A finished study of two students, one of which gains so much over the other."""
    study = plan(root, scale, STUDENTS, seeds=seeds, **changes)
    finish(study, gaining(study, gains))
    return study


def board(study: Study, claims=None) -> dict[str, Finding]:
    """What the board finds of each claim, whatever is missing."""
    return {finding.claim.id: finding for finding in verdict_board(Results.read(study, partial=True), claims)}


def claim(name: str, **changes) -> Claim:
    """A published claim with fields changed."""
    original = next(one for one in load_claims() if one.id == name)
    return Claim.model_validate(original.model_dump() | changes)


def one_of(study: Study, phase: type, seed: int = 0, variant: str = "m2mkd") -> Run:
    """The run that trained a row of the first profile, or that measured it."""
    (row,) = [row for row in study.rows if row.variant == variant and row.profile == study.scale.profiles[0]]
    of_row = [study.runs[run_id] for run_id in (*row.trained, *row.measured)]
    (found,) = [run for run in of_row if isinstance(run.config, phase) and run.seed == seed]
    return found
