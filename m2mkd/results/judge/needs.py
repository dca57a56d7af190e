"""Requirements for deciding an open claim: the number of further seeds, by the spread of the present ones."""

from dataclasses import replace

from m2mkd.config.claims import Claim
from m2mkd.results.judge.verdicts import Measured, Verdict, edges
from m2mkd.statistics import mean, minimum_detectable_difference, seeds_for_half_width, seeds_to_detect, seeds_to_exclude


def with_needs(claim: Claim, verdict: Verdict) -> Verdict:
    """Add what would decide a verdict, if it is open and does not say so already."""
    measured, (smallest, largest) = verdict.measured, edges(claim)
    if verdict.needs or measured is None:
        return verdict
    estimate = measured.single.estimate
    if verdict.word == "holds in typical seeds":
        return replace(verdict, needs=_to_exclude(claim, measured))
    if verdict.word == "size undecided":
        return replace(verdict, needs=_to_narrow(measured, abs(estimate - smallest)))
    if verdict.word == "inconclusive" and claim.direction == "greater":
        return replace(verdict, needs=_to_detect(measured))
    if verdict.word == "inconclusive":
        return replace(verdict, needs=_to_narrow(measured, min(abs(estimate - smallest), abs(estimate - largest))))
    return verdict


def _to_detect(measured: Measured) -> str:
    """Needs of a gain: the difference that this number of seeds can find, and the number of seeds that the measured one takes."""
    pair, unit, level = measured.pair, measured.unit, measured.level
    spread, seeds, size = pair.spread(unit), len(pair.treated), abs(mean(pair.values(unit)))
    detectable = minimum_detectable_difference(spread, seeds, level)
    needed = seeds_to_detect(size, spread, level) if size else None
    more = "no number of seeds up to 10,000 would find the measured one" if needed is None else f"the measured one takes {needed}"
    return f"{seeds} seeds find {detectable:.2f} {measured.label} with 80 % power; {more}."


def _to_narrow(measured: Measured, margin: float) -> str:
    """Needs of a size or a band: the number of seeds whose interval, around the same estimate, ends at its edge."""
    if len(measured.pair.treated) < 2:
        return "More runs: one does not say how far seeds differ, and so not how many would decide it."
    needed = seeds_for_half_width(measured.pair.spread(measured.unit), margin, measured.level)
    more = "No number of seeds up to 10,000" if needed is None else f"{needed} seeds"
    return f"{more} would decide it, if estimate and spread stay."


def _to_exclude(claim: Claim, measured: Measured) -> str:
    """Needs of a claim that holds in typical seeds: the number of seeds, none collapsing, that excludes enough collapses to undo it."""
    typical, average, (smallest, largest) = measured.typical, measured.average, edges(claim)
    sides = [(typical.low - smallest, typical.low - average.low)]
    if claim.direction != "greater":
        sides.append((largest - typical.high, average.high - typical.high))
    # The effect of unseen collapses is proportional to their share.
    share = measured.pair.unseen_collapses(measured.level) * min(margin / fall for margin, fall in sides if fall)
    needed = seeds_to_exclude(share, measured.level)
    more = "no number of them up to 10,000" if needed is None else f"{needed} of which none collapses"
    return f"On average over all seeds: {more}, if the interval stays."
