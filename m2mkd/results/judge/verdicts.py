"""Verdicts on claims from measured accuracies: pure functions, never more certain than the measurements.

A claim is reproduced if it holds in typical seeds and also on average over all seeds, with as many collapses as the seeds cannot exclude.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from m2mkd.config.claims import FEWEST_SEEDS, Claim
from m2mkd.results.judge.pairs import Pair, Unit, averaged
from m2mkd.statistics import Interval, interval_of_maximum, simultaneous_level

Word = Literal[
    "reproduced",
    "holds in typical seeds",
    "size undecided",
    "direction only",
    "not reproduced",
    "inconclusive",
    "not run",
    "smoke-pass",
    "smoke-fail",
]
DECIDED: frozenset[Word] = frozenset({"reproduced", "holds in typical seeds", "direction only", "not reproduced"})
"""Verdicts that more seeds would hardly change."""
WORST_FIRST: tuple[Word, ...] = (
    "not reproduced",
    "inconclusive",
    "direction only",
    "size undecided",
    "holds in typical seeds",
    "reproduced",
)
"""Order in which members of a population give one verdict, if the claim is about each of them."""
LABELS: dict[Unit, str] = {"points": "points", "relative": "% of the baseline"}


@dataclass(frozen=True)
class Measured:
    """Bounds of a claim's quantity from the seeds, in one unit."""

    single: Interval
    """Interval of 95 % for this claim alone."""
    typical: Interval
    """Interval that decides: those of all claims of the board hold jointly with 95 %."""
    average: Interval
    """Joint interval of the mean over all seeds, of which more may collapse than these show."""
    unit: Unit
    pair: Pair
    """Member behind it, to compute the effect of more seeds."""
    level: float
    """Level of ``typical`` and ``average``."""
    at_once: int
    """Number of claims that are judged jointly."""

    @property
    def label(self) -> str:
        """Unit in words."""
        if self.pair.control is not None:
            return LABELS[self.unit]
        return "% in one run, by its images alone," if self.pair.is_one_accuracy else "%"

    def __str__(self) -> str:
        sign = "" if self.pair.control is None else "+"
        shown = f"{self.single.estimate:{sign}.2f} {self.label} {_bounds(self.single, sign)}"
        return shown if self.typical == self.single else f"{shown} ({_bounds(self.typical, sign)} with {self.at_once} claims at once)"


def _bounds(interval: Interval, sign: str) -> str:
    return f"[{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


@dataclass(frozen=True)
class Verdict:
    """Verdict on a claim."""

    word: Word
    why: str
    """Reasons in one or two sentences, with the numbers that decided."""
    needs: str = ""
    """Requirements for deciding it; empty if it is decided."""
    measured: Measured | None = None
    """Measured bounds; none if there are too few numbers."""

    @property
    def interval(self) -> Interval | None:
        """Interval of 95 % for this claim alone, in its unit."""
        return self.measured.single if self.measured else None


def judge(claim: Claim, pairs: Sequence[Pair], at_once: int = 1) -> Verdict:
    """Judge a claim whose runs are complete; `m2mkd.results.judge.needs` adds what would decide it.

    Parameters
    ----------
    claim
        The claim. If its unit is not stated it is judged in points and relatively, and holds as far as both agree.
    pairs
        Pairs of accuracies, one for each experiment of its population.
    at_once
        Number of claims, including this one, whose verdicts must hold jointly.

    Returns
    -------
    Verdict
        Verdict of the weaker reading, if two units disagree. Inconclusive with fewer than six seeds, or with outlying seeds.
    """
    counts = {len(arm) for pair in pairs for arm in (pair.treated, pair.control) if arm is not None}
    seeds = min(counts)
    if any(pair.is_unpaired for pair in pairs) or (claim.aggregate == "mean" and len(counts) > 1):
        some = " and ".join(str(count) for count in sorted(counts))
        needs = "Arms of equal numbers of seeds."
        return Verdict("inconclusive", f"Arms of {some} seeds cannot be paired; imported weights count as one seed.", needs)
    one_run = claim.seeds == 1 and all(pair.is_one_accuracy for pair in pairs)
    wanted = 1 if one_run else max(claim.seeds, FEWEST_SEEDS)
    found = _weaker(claim, pairs, at_once) if one_run or seeds > 1 else None
    if seeds < wanted:
        so_far = f"{found.measured}: " if found and found.measured else ""
        more = wanted - seeds
        why = f"{so_far}{seeds} of the {wanted} seeds that a verdict takes."
        needs = f"{more} more {'seed' if more == 1 else 'seeds'} of each arm."
        return Verdict("inconclusive", why, needs, found.measured if found else None)
    assert found is not None
    if apart := next(filter(None, (pair.standing_apart for pair in pairs)), None):
        so_far = f"{found.measured}, but " if found.measured else ""
        why = f"{so_far}{apart}: of seeds of two kinds no mean is typical."
        return Verdict("inconclusive", why, "A recipe whose seeds agree; more seeds of this one do not decide it.", found.measured)
    return found


def _weaker(claim: Claim, pairs: Sequence[Pair], at_once: int) -> Verdict:
    """Verdict in the claim's unit, or the weaker one if the unit is not stated."""
    found = [_judge_in(claim, pairs, unit, at_once) for unit in claim.units]
    if len(found) == 1 or found[0].word == found[1].word:
        return found[0]
    weaker = min(found, key=lambda verdict: WORST_FIRST.index(verdict.word))
    readings = "; ".join(f"{verdict.word} in {unit}" for unit, verdict in zip(("points", "relative terms"), found, strict=True))
    return replace(weaker, why=f"{weaker.why} The unit is not stated: {readings}.")


def _judge_in(claim: Claim, pairs: Sequence[Pair], unit: Unit, at_once: int) -> Verdict:
    if claim.aggregate == "each":
        return _judge_each(claim, pairs, unit, at_once)
    if claim.aggregate == "mean":
        return _decide(claim, _measure(averaged(pairs), unit, at_once))
    known = [found for pair in pairs if (found := _measure(pair, unit, at_once, len(pairs)))]
    if len(known) < len(pairs):
        return _decide(claim, None)
    best = max(known, key=lambda found: found.single.estimate)
    singles, typical, average = zip(*((found.single, found.typical, found.average) for found in known), strict=True)
    largest = [interval_of_maximum(intervals) for intervals in (singles, typical, average)]
    return _decide(claim, replace(best, single=largest[0], typical=largest[1], average=largest[2]))


def _judge_each(claim: Claim, pairs: Sequence[Pair], unit: Unit, at_once: int) -> Verdict:
    found = [_decide(claim, _measure(pair, unit, at_once)) for pair in pairs]
    # If every member passes, the whole claim does at the same level (intersection-union test). That one among several fails
    # is bound to happen by chance, and is only said where it holds at a corrected level.
    if any(verdict.word not in ("reproduced", "holds in typical seeds") for verdict in found):
        found = [_decide(claim, _measure(pair, unit, at_once, len(pairs))) for pair in pairs]
    worst = min(range(len(found)), key=lambda index: WORST_FIRST.index(found[index].word))
    where = f"{pairs[worst].name}: " if len(pairs) > 1 else ""
    return replace(found[worst], why=where + found[worst].why)


def _measure(pair: Pair, unit: Unit, at_once: int, members: int = 1) -> Measured | None:
    """Intervals of a member, one of ``at_once`` whose intervals must hold jointly; none if it gives no bound."""
    single, level = simultaneous_level(members), simultaneous_level(members * at_once)
    alone, typical = pair.interval(unit, single), pair.interval(unit, level)
    if alone is None or typical is None:
        return None
    return Measured(alone, typical, pair.on_average(typical, unit, level), unit, pair, level, at_once)


def _decide(claim: Claim, measured: Measured | None) -> Verdict:
    if measured is None:
        why = "The baseline's own interval holds 0, so that no gain relative to it can be bounded."
        return Verdict("inconclusive", why, "More seeds, for a baseline that is better known.")
    word, because = _gain(claim, measured) if claim.direction == "greater" else _equality(claim, measured)
    return Verdict(word, f"{measured} {because}", measured=measured)


def _gain(claim: Claim, measured: Measured) -> tuple[Word, str]:
    """Word of the verdict, and the end of the sentence that explains it, after the measured numbers."""
    typical, (smallest, largest) = measured.typical, edges(claim)
    claimed = "" if claim.size is None else f"{claim.size:g} ± {claim.tolerance:g}"
    if typical.low > smallest:
        beyond = f" and beyond {claimed}" if typical.low > largest else ""
        return _in_which_seeds(measured.average.low > smallest, f"lies above {smallest:g}{beyond}", measured)
    if typical.low > 0 and typical.high < smallest:
        return "direction only", f"lies above 0, but below {claimed}."
    if typical.low > 0:
        return "size undecided", f"lies above 0, but partly below {claimed}."
    if typical.high <= 0:
        return "not reproduced", "does not lie above 0."
    if typical.high < smallest:
        return "not reproduced", f"does not exclude 0, but excludes {claimed}."
    return "inconclusive", "holds 0."


def _equality(claim: Claim, measured: Measured) -> tuple[Word, str]:
    low, high = edges(claim)
    band, typical, average = f"[{low:g}, {high:g}]", measured.typical, measured.average
    if low <= typical.low and typical.high <= high:
        return _in_which_seeds(low <= average.low and average.high <= high, f"lies within {band}", measured)
    if typical.high < low or high < typical.low:
        return "not reproduced", f"lies outside {band}."
    return "inconclusive", f"lies partly within {band}."


def edges(claim: Claim) -> tuple[float, float]:
    """Smallest and largest gain that count as claimed; without a size, any gain does."""
    if claim.direction == "greater" and claim.size is None:
        return 0.0, math.inf
    target = claim.size or 0.0
    return target - claim.tolerance, target + claim.tolerance


def _in_which_seeds(always: bool, so: str, measured: Measured) -> tuple[Word, str]:
    """Verdict on a claim that holds in typical seeds, and on average over all if ``always``."""
    if measured.pair.is_one_accuracy:
        return "reproduced", f"{so}."
    if always:
        return "reproduced", f"{so}, on average too if as many seeds collapse as these do not exclude."
    count = len(measured.pair.treated)
    return "holds in typical seeds", f"{so} in typical seeds; on average, collapses that {count} seeds do not exclude could undo it."
