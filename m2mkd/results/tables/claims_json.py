"""The verdict board as ``claims.json``, for programs: everything that a page says about a claim."""

from collections.abc import Iterable, Sequence
from typing import Any

from m2mkd.results.judge.arms import members_of
from m2mkd.results.judge.board import Finding
from m2mkd.results.judge.verdicts import DECIDED
from m2mkd.statistics import LEVEL


def claim_records(findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
    """Claims by id, see docs/results.md for the fields; unknown values are left out."""
    return {finding.claim.id: _record(finding) for finding in findings}


def _record(finding: Finding) -> dict[str, Any]:
    claim, verdict, measured = finding.claim, finding.verdict, finding.verdict.measured
    record: dict[str, Any] = {
        "claim": claim.claim,
        "subject": claim.subject,
        "family": finding.family,
        "metric": claim.metric,
        "comparison": claim.comparison,
        "direction": claim.direction,
        "scale": claim.scale,
        "profile": claim.profile,
        "verdict": verdict.word,
        "decided": verdict.word in DECIDED,
        "why": finding.why,
        "needs": verdict.needs,
        "seeds": finding.seeds,
        "seeds_needed": claim.seeds,
        "at_once": finding.at_once,
        "weak_seeds": {arm.name: _by_seed(arm.weak) for arm in members_of(finding.comparisons) if arm.weak},
        "unequal_labels": finding.unequal,
    }
    if finding.outdated:
        record["outdated_runs"] = len(finding.outdated)
    if finding.cost is not None:
        record["gpu_hours_to_judge"] = finding.cost
    if measured is None:
        return record
    return record | {
        "unit": measured.unit,
        "estimate": measured.single.estimate,
        "low": measured.single.low,
        "high": measured.single.high,
        "low_at_once": measured.typical.low,
        "high_at_once": measured.typical.high,
        "p_exact": finding.p_value,
        "unseen_collapses": min(pair.unseen_collapses(LEVEL) for pair in finding.pairs),
        "differences": {pair.name: _by_seed(zip(pair.seeds, pair.differences, strict=True)) for pair in finding.pairs},
    }


def _by_seed(numbers: Iterable[tuple[int | None, float]]) -> list[list[float | None]]:
    return [[seed, number] for seed, number in numbers]
