"""Whether values are of one kind: a mean says nothing where a few of them are of another."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

ALARM = 0.01
"""Share of normal samples that are taken for two kinds."""
DRAWS = 20_000
"""Normal samples from which the critical value is taken; fewer of large ones, whose number times size is at most a hundred times this."""


def apart(values: Sequence[float], rounding: float = 0.0) -> tuple[int, ...]:
    """Places of the values that stand apart from the others: the smaller of two groups, where there are two.

    The sorted values are cut where two groups explain most of their variance (Engelman and Hartigan 1969), which a single outlier and two
    clusters do alike. They are of two kinds where the cut explains more than it does in 99 % of normal samples of that number. The order
    of the values is of no effect.

    Parameters
    ----------
    values
        Independent, one for each seed.
    rounding
        Variance that each value has from being rounded; groups are taken for no narrower, so that a last digit sets nothing apart.

    Returns
    -------
    tuple of int
        In ascending order; of groups of equal size the lower one. Empty where all are of one kind, and for fewer than three values.
    """
    count = len(values)
    if count < 3:
        return ()
    order = sorted(range(count), key=values.__getitem__)
    explained, whole = _explained(np.asarray([values[place] for place in order]))
    cut = int(explained.argmax()) + 1
    if not whole or explained[cut - 1] / (whole + count * rounding) <= _critical(count):
        return ()
    return tuple(sorted(order[:cut] if cut <= count - cut else order[cut:]))


def _explained(ordered: Any) -> tuple[Any, Any]:
    """Sum of squares between the groups for each cut of ascending values, and the whole sum of squares; along the last axis."""
    count = ordered.shape[-1]
    centred = ordered - ordered.mean(-1, keepdims=True)
    lower = np.arange(1, count)
    return centred.cumsum(-1)[..., :-1] ** 2 * count / (lower * (count - lower)), (centred**2).sum(-1)


@cache
def _critical(count: int) -> float:
    """Share of the variance that the best cut explains, which so many normal values exceed as often as allowed."""
    samples = np.random.default_rng(0).standard_normal((min(DRAWS, 100 * DRAWS // count), count))
    explained, whole = _explained(np.sort(samples, axis=-1))
    return float(np.quantile(explained.max(-1) / whole, 1 - ALARM))
