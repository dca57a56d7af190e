"""Claims as sentences and the forest plot read them: from the verdict board as ``claims.json`` has it, and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m2mkd.config.claims import COMPARISON
from m2mkd.results.report.labels import METRIC_LABELS, arm_label
from m2mkd.statistics import Interval

NOT_RUN = "not run"
"""The verdict on a claim that a study has no run of."""
HOLDS = ("reproduced", "holds in typical seeds", "direction only", "size undecided")
"""Verdicts with which A lies above B, the most certain first."""


@dataclass(frozen=True)
class Contrast:
    """A claim about arms, and its verdict."""

    id: str
    claim: str
    family: str
    metric: str
    """As people call it."""
    arms: tuple[str, ...]
    """A; A and B; or A, B, C and D, as people call them."""
    direction: str
    """greater, equal or value."""
    word: str
    decided: bool
    needs: str
    """What would decide it; empty where it is decided."""
    seeds: int
    at_once: int
    """Claims whose verdicts are right together."""
    unit: str
    """points or relative."""
    single: Interval | None
    """95 %, of this claim alone; none where it has no interval."""
    joint: Interval | None
    """The interval that decides: those of all claims of the board hold at once with 95 %."""
    differences: tuple[tuple[str, float], ...]
    """Of every seed, with its name."""
    weak: dict[str, list[tuple[str, float]]] = field(hash=False)
    """Seeds by arm that lie below what the scale takes for a training that went well, with their accuracy as a share."""
    unequal: str
    """How the labelled images of its arms differ, in words; empty where they do not."""

    @property
    def is_gain_of_m2mkd(self) -> bool:
        """Whether it says that m2mKD is more accurate than another training, as most claims do."""
        return self.direction == "greater" and len(self.arms) == 2 and self.arms[0] == "m2mKD" and self.metric in ("IID", "OOD")

    @property
    def label(self) -> str:
        """What is compared, in a few words."""
        first, *others = self.arms
        if len(self.arms) == 4:
            second, third, fourth = others
            return f"({first} - {second}) - ({third} - {fourth}), {self.metric}"
        return f"{' - '.join(self.arms)}, {self.metric}"

    @property
    def numbers(self) -> str:
        """Estimate and the interval that decides; empty where there is none."""
        if self.joint is None:
            return ""
        sign, unit = ("", "") if self.direction == "value" else ("+", " %" if self.unit == "relative" else "")
        low, high = rounded(self.joint.low, sign), rounded(self.joint.high, sign)
        return f"{rounded(self.joint.estimate, sign)}{unit} [{low}, {high}]"


def rounded(value: float, sign: str = "+") -> str:
    """A number with one decimal, or with as many as show that it is not 0."""
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
