"""Accuracies of the arms of a comparison, seed by seed, and their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from m2mkd.outliers import apart
from m2mkd.statistics import Interval, binomial_interval, mean, ratio_interval, std, t_interval

Unit = Literal["points", "relative"]


@dataclass(frozen=True)
class Pair:
    """Accuracies, as shares from 0 to 1, of one member of a claim's population; the same seeds in the same order."""

    name: str
    """Name of the experiment."""
    treated: tuple[float, ...]
    """Accuracies of A."""
    control: tuple[float, ...] | None
    """Accuracies of B; none for a claim about A alone."""
    rounding: float = 0.0
    """Variance of one share from counting whole images, see `rounding_of`."""
    images: int | None = None
    """Number of images behind one share; none if unknown."""
    seeds: tuple[int | None, ...] = ()
    """Numbers of the seeds, if they have any."""
    falls: tuple[float, float] | None = None
    """Largest distance of a seed below and above the others if its arms collapse; none: derived from the means of A and B."""

    @property
    def is_one_accuracy(self) -> bool:
        """True for the accuracy of a single run, such as a teacher's, whose interval is over its images only."""
        return self.control is None and len(self.treated) == 1 and bool(self.images)

    @property
    def is_unpaired(self) -> bool:
        """True if its arms have different numbers of seeds."""
        return self.control is not None and len(self.control) != len(self.treated)

    @property
    def differences(self) -> list[float]:
        """A - B in points, or A in percent, for each seed."""
        if self.control is None:
            return [100 * share for share in self.treated]
        return [100 * (one - other) for one, other in zip(self.treated, self.control, strict=True)]

    def interval(self, unit: Unit, level: float) -> Interval | None:
        """Interval of the claim's quantity; none if B is too uncertain to divide by."""
        if self.images and self.is_one_accuracy:
            found = binomial_interval(round(self.treated[0] * self.images), self.images, level)
            return Interval(*(100 * share for share in (found.estimate, found.low, found.high)))
        if self.control is None or unit == "points":
            return t_interval(self.differences, level, self._rounding(unit))
        ratio = ratio_interval(self.treated, self.control, level, self.rounding)
        return ratio and Interval(*(100 * (bound - 1) for bound in (ratio.estimate, ratio.low, ratio.high)))

    def on_average(self, typical: Interval, unit: Unit, level: float) -> Interval:
        """Interval of the mean over all seeds, some of which may collapse although none of these did.

        Parameters
        ----------
        typical
            Interval of the mean over typical seeds.
        unit, level
            As of that interval.
        """
        if self.is_one_accuracy:
            return typical
        share = self.unseen_collapses(level)
        per_share = 100 / (mean(self.control) if self.control and unit == "relative" else 1)
        below, above = (share * per_share * fall for fall in self.largest_falls)
        return Interval(typical.estimate, typical.low - below, typical.high + above)

    def unseen_collapses(self, level: float) -> float:
        """Largest share of seeds that may collapse although none of these did, by the exact binomial interval of that level."""
        return binomial_interval(0, len(self.treated), level).high

    @property
    def largest_falls(self) -> tuple[float, float]:
        """Largest distance of a seed below and above the others, as shares: A, or B, can fall to 0."""
        return self.falls or (mean(self.treated), mean(self.control) if self.control else 0.0)

    @property
    def standing_apart(self) -> str:
        """Outlying seeds in one sentence; empty if there are none."""
        places = apart(self.differences, self._rounding("points"))
        if not places:
            return ""
        others = mean(value for place, value in enumerate(self.differences) if place not in places)
        named = ", ".join(f"{self.seeds[place] if self.seeds else place} ({self.differences[place]:+.2f})" for place in places)
        one = len(places) == 1
        who = f"{'seed' if one else 'seeds'} {named} {'stands' if one else 'stand'} apart from the others ({others:+.2f} points on average)"
        return f"{self.name}: {who}"

    def values(self, unit: Unit) -> list[float]:
        """Values of the seeds, with their mean and spread; for a ratio to first order (delta method)."""
        if self.control is None or unit == "points":
            return self.differences
        below = mean(self.control)
        ratio = mean(self.treated) / below
        return [100 * ((one - ratio * other) / below + ratio - 1) for one, other in zip(self.treated, self.control, strict=True)]

    def spread(self, unit: Unit) -> float:
        """Standard deviation of the values over seeds, at least that of rounding, as in the interval."""
        return max(std(self.values(unit)) or 0.0, math.sqrt(self._rounding(unit)))

    def _rounding(self, unit: Unit) -> float:
        """Variance of one value from counting whole images."""
        if self.control is None:
            return 1e4 * self.rounding
        if unit == "points":
            return 2e4 * self.rounding
        below = mean(self.control)
        return 1e4 * self.rounding * (1 + (mean(self.treated) / below) ** 2) / below**2


def rounding_of(images: int | None) -> float:
    """Variance of an accuracy from counting whole images: that of a uniform distribution as wide as one image."""
    return 1 / (12 * images**2) if images else 0.0


def averaged(pairs: Sequence[Pair]) -> Pair:
    """The mean of a population, seed by seed."""
    treated = tuple(mean(seed) for seed in zip(*(pair.treated for pair in pairs), strict=True))
    controls = [pair.control for pair in pairs if pair.control is not None]
    control = tuple(mean(seed) for seed in zip(*controls, strict=True)) if controls else None
    below, above = (mean(falls) for falls in zip(*(pair.largest_falls for pair in pairs), strict=True))
    rounding = sum(pair.rounding for pair in pairs) / len(pairs) ** 2
    return Pair("mean", treated, control, rounding, seeds=pairs[0].seeds, falls=(below, above))
