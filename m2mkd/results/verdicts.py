"""What measured accuracies say about a claim: pure functions, never more certain than the measurements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from m2mkd.config.claims import Claim
from m2mkd.statistics import (
    Interval,
    gains,
    interval_of_maximum,
    mean,
    minimum_detectable_difference,
    seeds_to_detect,
    std,
    t_interval,
)

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

    def values(self, unit: Literal["points", "relative"]) -> list[float]:
        """A - B in ``unit``, or A in percent, for each seed."""
        return [100 * share for share in self.treated] if self.control is None else gains(self.treated, self.control, unit)


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
    seeds = min(len(pair.treated) for pair in pairs)
    if seeds < claim.seeds:
        return Verdict(
            "inconclusive", f"{seeds} of the {claim.seeds} seeds that the claim is judged with; {claim.seeds - seeds} more are needed."
        )
    found = [_judge_in(claim, pairs, unit) for unit in claim.units]
    if len(found) == 1 or found[0].word == found[1].word:
        return found[0]
    weaker = min(found, key=lambda verdict: WORST_FIRST.index(verdict.word))
    readings = "; ".join(f"{verdict.word} in {unit}" for unit, verdict in zip(("points", "relative terms"), found, strict=True))
    return Verdict(weaker.word, f"{weaker.why} The unit is not stated: {readings}.", weaker.interval)


def _judge_in(claim: Claim, pairs: Sequence[Pair], unit: Literal["points", "relative"]) -> Verdict:
    groups = [pair.values(unit) for pair in pairs]
    if claim.aggregate == "each":
        single = [_decide(claim, t_interval(values), values, unit) for values in groups]
        worst = min(range(len(single)), key=lambda place: WORST_FIRST.index(single[place].word))
        where = f"{pairs[worst].name}: " if len(pairs) > 1 else ""
        return Verdict(single[worst].word, where + single[worst].why, single[worst].interval)
    if claim.aggregate == "mean":
        together = [mean(values) for values in zip(*groups, strict=True)]
        return _decide(claim, t_interval(together), together, unit)
    best = max(groups, key=mean)
    return _decide(claim, interval_of_maximum(groups), best, unit)


def _decide(claim: Claim, interval: Interval | None, values: Sequence[float], unit: Literal["points", "relative"]) -> Verdict:
    """Judge by one interval; ``values`` are the seeds behind it, for saying what is missing."""
    if interval is None:
        return Verdict("inconclusive", "One seed has no interval; at least 2 are needed.")
    label = "%" if claim.direction == "value" else {"points": "points", "relative": "% of the baseline"}[unit]
    decide = _decide_gain if claim.direction == "greater" else _decide_equality
    return decide(claim, interval, values, label)


def _decide_gain(claim: Claim, interval: Interval, values: Sequence[float], label: str) -> Verdict:
    size, tolerance = claim.size, claim.tolerance
    measured = f"{interval.estimate:+.2f} {label} [{interval.low:+.2f}, {interval.high:+.2f}]"
    claimed = "" if size is None else f"{size:g} ± {tolerance:g}"
    too_small = size is not None and interval.high < size - tolerance
    if interval.low > 0:
        if too_small:
            return Verdict("direction only", f"{measured} lies above 0, but below {claimed}.", interval)
        return Verdict("reproduced", f"{measured} lies above 0" + (f" and does not exclude {claimed}." if claimed else "."), interval)
    if interval.high <= 0:
        return Verdict("not reproduced", f"{measured} does not lie above 0.", interval)
    if too_small:
        return Verdict("not reproduced", f"{measured} does not exclude 0, but excludes {claimed}.", interval)
    return Verdict("inconclusive", f"{measured} holds 0. {_missing(values, label)}", interval)


def _decide_equality(claim: Claim, interval: Interval, values: Sequence[float], label: str) -> Verdict:
    target = claim.size or 0.0
    low, high = target - claim.tolerance, target + claim.tolerance
    measured = f"{interval.estimate:.2f} {label} [{interval.low:.2f}, {interval.high:.2f}]"
    band = f"[{low:g}, {high:g}]"
    if low <= interval.low and interval.high <= high:
        return Verdict("reproduced", f"{measured} lies within {band}.", interval)
    if interval.high < low or high < interval.low:
        return Verdict("not reproduced", f"{measured} lies outside {band}.", interval)
    return Verdict("inconclusive", f"{measured} lies partly within {band}. {_missing(values, label)}", interval)


def _missing(values: Sequence[float], label: str) -> str:
    """What would decide it: the difference that so many seeds can find, and the seeds that the measured one takes."""
    spread, measured = std(values) or 0.0, abs(mean(values))
    detectable = minimum_detectable_difference(spread, len(values))
    needed = seeds_to_detect(measured, spread) if measured else None
    if math.isinf(detectable):
        return "More seeds are needed."
    more = "no number of seeds up to 10,000 would find the measured one" if needed is None else f"the measured one takes {needed}"
    return f"{len(values)} seeds find {detectable:.2f} {label} with 80 % power; {more}."
