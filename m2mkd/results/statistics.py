"""Statistics over seeds, as pure functions."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What the seeds of one setting say."""

    n: int
    """Number of seeds."""
    mean: float
    std: float | None
    """Sample standard deviation over seeds; none where there is only one."""


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean, exact before the last rounding, so that the order of the values is of no effect."""
    found = list(values)
    return math.fsum(found) / len(found)


def std(values: Iterable[float]) -> float | None:
    """Sample standard deviation (divisor n - 1); none for fewer than two values."""
    found = list(values)
    return statistics.stdev(found) if len(found) > 1 else None


def summarise(values: Iterable[float]) -> Summary:
    """Number, mean and sample standard deviation.

    Raises
    ------
    ValueError
        If there is no value.
    """
    found = list(values)
    if not found:
        raise ValueError("no values to summarise")
    return Summary(len(found), mean(found), std(found))
