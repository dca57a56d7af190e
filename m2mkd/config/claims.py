"""Claims as data (``config/claims.tsv``): the statement, its source, and the criterion for reproducing it, fixed before any run."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from m2mkd.config import load
from m2mkd.config.base import Config
from m2mkd.config.compat import Profile
from m2mkd.config.tables import read_table
from m2mkd.errors import InputError

Metric = Literal["iid_top1", "ood_top1", "graph_density"]
COMPARISON = re.compile(r"([^ ()]+)|([^ ()]+) - ([^ ()]+)|\(([^ ()]+) - ([^ ()]+)\) - \(([^ ()]+) - ([^ ()]+)\)")
"""A; A - B; or (A - B) - (C - D)."""
FEWEST_SEEDS = 6
"""With fewer no exact test can reach 5 %: for five pairs that all point the same way, the two-sided p value is 2 / 2^5."""
LARGEST_TOLERANCE = 1 / 3
"""Largest tolerance as a share of a claimed gain: a gain a third smaller is not of that size."""


class Claim(Config):
    """Row of ``config/claims.tsv``."""

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    claim: str
    """Claim in one sentence."""
    source: str
    """Paper and place in it, or the part of this suite that makes the claim."""
    status: Literal["VERIFIED", "ABSTRACT-ONLY", "SECONDARY", "DERIVED", "PREDICTED"]
    """Status of the claimed number: how well it is known."""
    subject: Literal["paper", "suite"]
    """Subject of the claim: the paper, which no reduced scale judges, or this suite at its own scale."""
    profile: Profile
    """Compat profile of the runs that decide it; for a claim of the authors, the one that they ran."""
    metric: Metric
    population: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Experiments that it is about, separated by commas."""
    comparison: str
    """``A - B``, ``(A - B) - (C - D)`` (with A - B for A, C - D for B), or ``A`` alone; variants of each experiment of
    the population (``teacher`` of a teacher experiment), or ``experiment/variant``."""
    aggregate: Literal["each", "mean", "max"]
    """Scope: each experiment of the population, their mean, or the best of them ("up to")."""
    direction: Literal["greater", "equal", "value"]
    """A is greater than B (by ``size``, if given); A equals B; or A is ``size``."""
    size: float | None
    """Claimed gain in ``unit``, or claimed accuracy in percent."""
    unit: Literal["points", "relative", "unstated"]
    """Percentage points of accuracy, percent of B's accuracy, or not stated: then it is judged in both."""
    tolerance: NonNegativeFloat
    """Largest deviation from ``size`` that still counts as that size, in the same unit; for a gain at most a third of it. For ``equal``,
    the largest difference that counts as none."""
    scale: str
    """Scale at which it may be judged."""
    seeds: PositiveInt
    """Fewest seeds for a verdict, at least six; or 1 for the accuracy of a teacher, which is one run."""

    @field_validator("population", mode="before")
    @classmethod
    def _split(cls, text: str | tuple[str, ...]) -> tuple[str, ...]:
        return tuple(text.split(",")) if isinstance(text, str) else text

    @field_validator("size", mode="before")
    @classmethod
    def _empty_is_none(cls, text: object) -> object:
        return None if text == "" else text

    @model_validator(mode="after")
    def _fits_direction(self) -> "Claim":
        if not COMPARISON.fullmatch(self.comparison):
            raise ValueError(f"comparison '{self.comparison}' is not a comparison; write 'A', 'A - B' or '(A - B) - (C - D)'")
        if len(self.arms) == 4 and self.unit != "points":
            raise ValueError(f"unit {self.unit} does not fit a difference of differences; write points")
        if (self.direction == "value") == (len(self.arms) > 1):
            raise ValueError(f"comparison '{self.comparison}' does not fit direction {self.direction}; write 'A' for a value, else 'A - B'")
        if self.direction == "value" and (self.size is None or self.aggregate == "max"):
            raise ValueError("direction value needs a size, and an aggregate each or mean")
        if self.direction == "equal" and (self.size or not self.tolerance or self.aggregate == "max"):
            raise ValueError("direction equal has no size, needs a tolerance above 0, and an aggregate each or mean")
        if self.direction == "value" and (self.unit != "points" or not 0 <= (self.size or 0) <= 100):
            raise ValueError("direction value needs a size from 0 to 100 in points, because it is an accuracy in percent")
        if self.direction == "greater" and self.size is not None and self.size <= 0:
            raise ValueError("direction greater needs a size above 0, or no size; swap the sides of the comparison")
        if self.direction == "greater" and self.size is not None and self.tolerance > LARGEST_TOLERANCE * self.size:
            raise ValueError(
                f"tolerance {self.tolerance:g} is more than a third of size {self.size:g}, which is too wide for a claimed gain; lower it"
            )
        if self.seeds < FEWEST_SEEDS and (self.seeds, self.direction, self.aggregate) != (1, "value", "each"):
            raise ValueError(f"seeds {self.seeds} cannot decide; write at least {FEWEST_SEEDS}, or 1 for the accuracy of one run")
        with_itself = any(members[0] == members[1] for members in self.members() if len(members) > 1)
        if with_itself or len(set(self.population)) < len(self.population):
            raise ValueError("an experiment occurs twice in the population, or is compared with itself; remove one")
        if self.subject == "paper" and self.scale != "paper":
            raise ValueError(f"scale {self.scale} cannot judge a claim of the paper; write paper")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """A; A and B; or A, B, C and D of the comparison."""
        found = COMPARISON.fullmatch(self.comparison)
        return tuple(filter(None, found.groups())) if found else ()

    @property
    def units(self) -> tuple[Literal["points", "relative"], ...]:
        """Units in which it is judged."""
        return ("points", "relative") if self.unit == "unstated" else (self.unit,)

    def members(self) -> list[tuple[tuple[str, str], ...]]:
        """Experiment and variant of each side, for each experiment of the population."""
        return [tuple(_selected(name, arm) for arm in self.arms) for name in self.population]


def _selected(experiment: str, arm: str) -> tuple[str, str]:
    source, slash, variant = arm.partition("/")
    return (source, variant) if slash else (experiment, arm)


def load_claims(path: Path = load.CONFIG / "claims.tsv") -> list[Claim]:
    """Read all claims, in the order of the file.

    Raises
    ------
    InputError
        If the file cannot be read, a row is not valid, or an id occurs twice; names line and field.
    """
    try:
        header, lines = read_table(path, "\t")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    claims: dict[str, Claim] = {}
    for number, cells in lines:
        claim = load.checked(Claim, dict(zip(header, cells, strict=True)), f"{path}, line {number}")
        if claim.id in claims:
            raise InputError(f"{path}, line {number}: id {claim.id} occurs twice; rename one")
        claims[claim.id] = claim
    return list(claims.values())
