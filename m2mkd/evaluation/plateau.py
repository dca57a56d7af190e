"""Detection of trainings that stay at chance: several consecutive measurements that guessing could have reached."""

from collections.abc import Iterable
from typing import NamedTuple

from scipy.special import bdtr

SHORTEST_PLATEAU = 3
"""Consecutive measurements that make a plateau; fewer are a warm-up."""


class Plateau(NamedTuple):
    """Longest period that a training stayed at chance."""

    first: int
    """Epoch of its first measurement, from 1."""
    last: int
    """Epoch of its last measurement."""


def at_chance(top1: float, images: int, classes: int) -> bool:
    """True if an accuracy (0 to 1) is within what guessing reaches on ``images`` images in 99 of 100 cases (binomial)."""
    # At most the 99 % quantile, as scipy.stats.binom.ppf gives it; importing scipy.stats would cost every job a second.
    hits = round(top1 * images)
    return hits == 0 or bool(bdtr(hits - 1, images, 1 / classes) < 0.99)


def plateau(measured: Iterable[tuple[int, float]], images: int, classes: int) -> Plateau | None:
    """Longest plateau of a curve.

    Parameters
    ----------
    measured
        Epoch and accuracy of each measurement, in order.
    images, classes
        Sizes of the measured set.
    """
    longest: list[int] = []
    run: list[int] = []
    for epoch, top1 in measured:
        run = [*run, epoch] if at_chance(top1, images, classes) else []
        longest = max(longest, run, key=len)
    return Plateau(longest[0], longest[-1]) if len(longest) >= SHORTEST_PLATEAU else None
