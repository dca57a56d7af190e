"""What measured accuracies say about a claim: pure functions, never more certain than the measurements."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from m2mkd.config.claims import Claim
from m2mkd.statistics import (
    LEVEL,
    Interval,
    binomial_interval,
    interval_of_maximum,
    mean,
    minimum_detectable_difference,
    ratio_interval,
    seeds_for_half_width,
    seeds_to_detect,
    simultaneous_level,
    std,
    t_interval,
)

Unit = Literal["points", "relative"]
Word = Literal["reproduced", "direction only", "not reproduced", "inconclusive", "not run", "smoke-pass", "smoke-fail"]
WORST_FIRST: tuple[Word, ...] = ("not run", "not reproduced", "inconclusive", "direction only", "reproduced")
"""How the members of a population make one verdict where the claim is about each of them."""


@dataclass(frozen=True)
class Pair:
    """Accuracies, as shares from 0 to 1, of one member of a claim's population; the same seeds in the same order."""

    name: str
    """Experiment."""
    treated: tuple[float, ...]
    """A's."""
    control: tuple[float, ...] | None
    """B's; none for a claim about A alone."""
    rounding: float = 0.0
    """Variance of one share from counting whole images, see `rounding_of`."""
    images: int | None = None
    """Images that measured one share; none where that is not known."""

    @property
    def is_one_accuracy(self) -> bool:
        """Whether it is the accuracy of a single run, as a teacher's is, which has an interval over its images alone."""
        return self.control is None and len(self.treated) == 1 and bool(self.images)

    @property
    def is_unpaired(self) -> bool:
        """Whether its arms have different numbers of seeds."""
        return self.control is not None and len(self.control) != len(self.treated)

    @property
    def differences(self) -> list[float]:
        """A - B in points, or A in percent, for each seed."""
        if self.control is None:
            return [100 * share for share in self.treated]
        return [100 * (one - other) for one, other in zip(self.treated, self.control, strict=True)]

    def interval(self, unit: Unit, level: float) -> Interval | None:
        """Interval of what the claim is about; none where B is not known well enough to divide by."""
        if self.images and self.is_one_accuracy:
            found = binomial_interval(round(self.treated[0] * self.images), self.images, level)
            return Interval(*(100 * share for share in (found.estimate, found.low, found.high)))
        if self.control is None or unit == "points":
            return t_interval(self.differences, level, self._rounding(unit))
        ratio = ratio_interval(self.treated, self.control, level, self.rounding)
        return ratio and Interval(*(100 * (bound - 1) for bound in (ratio.estimate, ratio.low, ratio.high)))

    def values(self, unit: Unit) -> list[float]:
        """The same for each seed, with their mean and spread; of a ratio to first order (delta method)."""
        if self.control is None or unit == "points":
            return self.differences
        below = mean(self.control)
        ratio = mean(self.treated) / below
        return [100 * ((one - ratio * other) / below + ratio - 1) for one, other in zip(self.treated, self.control, strict=True)]

    def spread(self, unit: Unit) -> float:
        """Standard deviation of the values over seeds, which as in the interval is taken for no smaller than that of rounding."""
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
    """Variance of an accuracy from counting whole images: that of a uniform number as wide as one image."""
    return 1 / (12 * images**2) if images else 0.0


def averaged(pairs: Sequence[Pair]) -> Pair:
    """The mean of a population, seed by seed."""
    treated = tuple(mean(seed) for seed in zip(*(pair.treated for pair in pairs), strict=True))
    controls = [pair.control for pair in pairs if pair.control is not None]
    control = tuple(mean(seed) for seed in zip(*controls, strict=True)) if controls else None
    return Pair("mean", treated, control, sum(pair.rounding for pair in pairs) / len(pairs) ** 2)


@dataclass(frozen=True)
class Verdict:
    """The answer to a claim."""

    word: Word
    why: str
    """One sentence with the numbers that decided."""
    interval: Interval | None = None
    """95 %, of what the claim is about, in its unit."""


def judge(claim: Claim, pairs: Sequence[Pair]) -> Verdict:
    """Judge a claim whose runs are all there.

    Parameters
    ----------
    claim
        What is claimed. Where its unit is not stated it is judged in points and relatively, and holds as far as both agree.
    pairs
        One for each experiment of its population.

    Returns
    -------
    Verdict
        Of the weaker reading, where two units disagree.
    """
    counts = {len(arm) for pair in pairs for arm in (pair.treated, pair.control) if arm is not None}
    seeds = min(counts)
    if any(pair.is_unpaired for pair in pairs) or (claim.aggregate == "mean" and len(counts) > 1):
        some = " and ".join(str(count) for count in sorted(counts))
        return Verdict("inconclusive", f"Arms of {some} seeds cannot be paired; weights of others count as one seed.")
    if seeds < claim.seeds:
        return Verdict(
            "inconclusive", f"{seeds} of the {claim.seeds} seeds that the claim is judged with; {claim.seeds - seeds} more are needed."
        )
    if seeds < 2 and not (claim.aggregate == "each" and all(pair.is_one_accuracy for pair in pairs)):
        return Verdict("inconclusive", "One seed has no interval; at least 2 are needed.")
    found = [_judge_in(claim, pairs, unit) for unit in claim.units]
    if len(found) == 1 or found[0].word == found[1].word:
        return found[0]
    weaker = min(found, key=lambda verdict: WORST_FIRST.index(verdict.word))
    readings = "; ".join(f"{verdict.word} in {unit}" for unit, verdict in zip(("points", "relative terms"), found, strict=True))
    return Verdict(weaker.word, f"{weaker.why} The unit is not stated: {readings}.", weaker.interval)


def _judge_in(claim: Claim, pairs: Sequence[Pair], unit: Unit) -> Verdict:
    if claim.aggregate == "each":
        return _judge_each(claim, pairs, unit)
    if claim.aggregate == "mean":
        together = averaged(pairs)
        return _decide(claim, together.interval(unit, LEVEL), together, unit, LEVEL)
    level = simultaneous_level(len(pairs))
    known = [(interval, pair) for pair in pairs if (interval := pair.interval(unit, level)) is not None]
    if len(known) < len(pairs):
        return _decide(claim, None, pairs[0], unit, level)
    best = max(known, key=lambda found: found[0].estimate)[1]
    return _decide(claim, interval_of_maximum([interval for interval, _ in known]), best, unit, level)


def _judge_each(claim: Claim, pairs: Sequence[Pair], unit: Unit) -> Verdict:
    def singly(level: float) -> list[Verdict]:
        return [_decide(claim, pair.interval(unit, level), pair, unit, level) for pair in pairs]

    found = singly(LEVEL)
    # Where every member passes, the whole claim does at the same level (intersection-union test). That one among several fails
    # is bound to happen by chance, and is only said where it holds at a corrected level.
    if any(verdict.word != "reproduced" for verdict in found):
        found = singly(simultaneous_level(len(pairs)))
    worst = min(range(len(found)), key=lambda index: WORST_FIRST.index(found[index].word))
    where = f"{pairs[worst].name}: " if len(pairs) > 1 else ""
    return Verdict(found[worst].word, where + found[worst].why, found[worst].interval)


def _decide(claim: Claim, interval: Interval | None, pair: Pair, unit: Unit, level: float) -> Verdict:
    """Judge by one interval of that level; ``pair`` is behind it, for saying what is missing."""
    if interval is None:
        return Verdict("inconclusive", "The baseline's own interval holds 0, so that no gain relative to it can be bounded.")
    label = {"points": "points", "relative": "% of the baseline"}[unit]
    if claim.direction == "value":
        label = "% in one run, by its images alone," if pair.is_one_accuracy else "%"
    if claim.direction == "greater":
        return _decide_gain(claim, interval, label, lambda: _to_detect(pair, unit, label, level))
    return _decide_equality(claim, interval, label, lambda margin: _to_narrow(pair, unit, margin, level))


def _decide_gain(claim: Claim, interval: Interval, label: str, missing: Callable[[], str]) -> Verdict:
    size, tolerance = claim.size, claim.tolerance
    measured = f"{interval.estimate:+.2f} {label} [{interval.low:+.2f}, {interval.high:+.2f}]"
    claimed = "" if size is None else f"{size:g} ± {tolerance:g}"
    too_small = size is not None and interval.high < size - tolerance
    if interval.low > 0:
        if too_small:
            return Verdict("direction only", f"{measured} lies above 0, but below {claimed}.", interval)
        if size is None:
            return Verdict("reproduced", f"{measured} lies above 0.", interval)
        sized = ", and beyond" if interval.low > size + tolerance else " and does not exclude"
        return Verdict("reproduced", f"{measured} lies above 0{sized} {claimed}.", interval)
    if interval.high <= 0:
        return Verdict("not reproduced", f"{measured} does not lie above 0.", interval)
    if too_small:
        return Verdict("not reproduced", f"{measured} does not exclude 0, but excludes {claimed}.", interval)
    return Verdict("inconclusive", f"{measured} holds 0. {missing()}", interval)


def _decide_equality(claim: Claim, interval: Interval, label: str, missing: Callable[[float], str]) -> Verdict:
    target = claim.size or 0.0
    low, high = target - claim.tolerance, target + claim.tolerance
    measured = f"{interval.estimate:.2f} {label} [{interval.low:.2f}, {interval.high:.2f}]"
    band = f"[{low:g}, {high:g}]"
    if low <= interval.low and interval.high <= high:
        return Verdict("reproduced", f"{measured} lies within {band}.", interval)
    if interval.high < low or high < interval.low:
        return Verdict("not reproduced", f"{measured} lies outside {band}.", interval)
    margin = abs(claim.tolerance - abs(interval.estimate - target))
    return Verdict("inconclusive", f"{measured} lies partly within {band}. {missing(margin)}", interval)


def _to_detect(pair: Pair, unit: Unit, label: str, level: float) -> str:
    """What would decide about a gain: the difference that so many seeds can find, and the seeds that the measured one takes."""
    spread, seeds, measured = pair.spread(unit), len(pair.treated), abs(mean(pair.values(unit)))
    detectable = minimum_detectable_difference(spread, seeds, level)
    needed = seeds_to_detect(measured, spread, level) if measured else None
    more = "no number of seeds up to 10,000 would find the measured one" if needed is None else f"the measured one takes {needed}"
    return f"{seeds} seeds find {detectable:.2f} {label} with 80 % power; {more}."


def _to_narrow(pair: Pair, unit: Unit, margin: float, level: float) -> str:
    """What would decide about a band: the seeds whose interval, around the same estimate, ends at its edge."""
    if len(pair.treated) < 2:
        return "One run does not say how far seeds differ, and so not how many would decide it."
    needed = seeds_for_half_width(pair.spread(unit), margin, level)
    more = "No number of seeds up to 10,000" if needed is None else f"{needed} seeds"
    return f"{more} would decide it, if estimate and spread stay."
