"""Claims as input of sentences and the forest plot: only from the verdict board in ``claims.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m2mkd.config.claims import COMPARISON
from m2mkd.statistics import Interval
from m2mkd.study.labels import METRIC_LABELS, arm_label

NOT_RUN = "not run"
"""Verdict on a claim for which a study has no run."""
HOLDS = ("reproduced", "holds in typical seeds", "direction only", "size undecided")
"""Verdicts in which A is greater than B, the most certain first."""


@dataclass(frozen=True)
class Contrast:
    """A claim about arms, and its verdict."""

    id: str
    claim: str
    family: str
    metric: str
    """Display name."""
    arms: tuple[str, ...]
    """Display names of A; A and B; or A, B, C and D."""
    direction: str
    """Direction: greater, equal or value."""
    word: str
    decided: bool
    needs: str
    """Requirements for deciding it; empty if it is decided."""
    seeds: int
    at_once: int
    """Number of claims whose verdicts hold jointly."""
    unit: str
    """Unit: points or relative."""
    single: Interval | None
    """Interval of 95 % for this claim alone; none if it has no interval."""
    joint: Interval | None
    """Interval that decides: those of all claims of the board hold jointly with 95 %."""
    differences: tuple[tuple[str, float], ...]
    """Value of every seed, with its name."""
    weak: dict[str, list[tuple[str, float]]] = field(hash=False)
    """Weak seeds by arm, with their accuracy as a share."""
    unequal: str
    """Difference between the labelled images of its arms, in words; empty if there is none."""

    @property
    def is_gain_of_m2mkd(self) -> bool:
        """True if it says that m2mKD is more accurate than another training, as most claims do."""
        return self.direction == "greater" and len(self.arms) == 2 and self.arms[0] == "m2mKD" and self.metric in ("IID", "OOD")

    @property
    def label(self) -> str:
        """Comparison in a few words."""
        first, *others = self.arms
        if len(self.arms) == 4:
            second, third, fourth = others
            return f"({first} - {second}) - ({third} - {fourth}), {self.metric}"
        return f"{' - '.join(self.arms)}, {self.metric}"

    @property
    def numbers(self) -> str:
        """Estimate and the interval that decides; empty if there is none."""
        if self.joint is None:
            return ""
        sign, unit = ("", "") if self.direction == "value" else ("+", " %" if self.unit == "relative" else "")
        low, high = rounded(self.joint.low, sign), rounded(self.joint.high, sign)
        return f"{rounded(self.joint.estimate, sign)}{unit} [{low}, {high}]"


def rounded(value: float, sign: str = "+") -> str:
    """Round a number to one decimal, or to as many as show that it is not 0."""
    text = f"{value:{sign}.1f}"
    return f"{value:{sign}.1g}" if value and not float(text) else text


def contrasts(records: Mapping[str, Mapping[str, Any]], scale: str) -> list[Contrast]:
    """The claims that may be judged at a scale, families together, otherwise in the order of the file.

    Parameters
    ----------
    records
        The verdict board, see `m2mkd.results.tables.claims_json.claim_records`.
    scale
        Name of the scale.
    """
    found = [_contrast(name, record) for name, record in records.items() if record["scale"] == scale]
    families = list(dict.fromkeys(one.family for one in found))
    return sorted(found, key=lambda one: families.index(one.family))


def _contrast(name: str, record: Mapping[str, Any]) -> Contrast:
    parsed = COMPARISON.fullmatch(record["comparison"])
    arms = tuple(arm_label(arm) for arm in filter(None, parsed.groups())) if parsed else ()
    weak = {arm: [(_seed(seed), top1) for seed, top1 in seeds] for arm, seeds in record.get("weak_seeds", {}).items()}
    by_seed = [(_seed(seed), value) for seeds in record.get("differences", {}).values() for seed, value in seeds]
    return Contrast(
        id=name,
        claim=record["claim"],
        family=record["family"],
        metric=METRIC_LABELS.get(record["metric"], record["metric"]),
        arms=arms,
        direction=record["direction"],
        word=record["verdict"],
        decided=record["decided"],
        needs=record["needs"],
        seeds=record["seeds"],
        at_once=record["at_once"],
        unit=record.get("unit", "points"),
        single=_interval(record, ""),
        joint=_interval(record, "_at_once"),
        differences=tuple(by_seed),
        weak=weak,
        unequal=record.get("unequal_labels", ""),
    )


def _seed(seed: int | None) -> str:
    return "all seeds" if seed is None else f"seed {seed}"


def _interval(record: Mapping[str, Any], suffix: str) -> Interval | None:
    if record.get("estimate") is None:
        return None
    return Interval(record["estimate"], record[f"low{suffix}"], record[f"high{suffix}"])
