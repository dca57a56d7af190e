"""Test for values of two kinds: a mean is misleading if a few values are of another kind."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

ALARM = 0.01
"""Share of normal samples that are taken for two kinds."""
DRAWS = 20_000
"""Normal samples that the critical value is computed from; fewer for large samples: number times size is at most 100 times this."""


def apart(values: Sequence[float], rounding: float = 0.0) -> tuple[int, ...]:
    """Indices of the outlying values: the smaller of two groups, if there are two.

    The sorted values are cut where two groups explain most of their variance (Engelman and Hartigan 1969); this finds both a single
    outlier and two clusters. They are of two kinds if the cut explains more than it does in 99 % of normal samples of that size. The
    order of the values has no effect.

    Parameters
    ----------
    values
        Independent values, one for each seed.
    rounding
        Variance of each value due to rounding; groups are never assumed narrower, so that a last digit cannot separate values.

    Returns
    -------
    tuple of int
        In ascending order; the lower one of groups of equal size. Empty if all are of one kind, and for fewer than three values.
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
    """Sum of squares between the groups for each cut of ascending values, and the total sum of squares; along the last axis."""
    count = ordered.shape[-1]
    centred = ordered - ordered.mean(-1, keepdims=True)
    lower = np.arange(1, count)
    return centred.cumsum(-1)[..., :-1] ** 2 * count / (lower * (count - lower)), (centred**2).sum(-1)


@cache
def _critical(count: int) -> float:
    """Share of variance explained by the best cut that normal samples of this size exceed with the allowed frequency."""
    samples = np.random.default_rng(0).standard_normal((min(DRAWS, 100 * DRAWS // count), count))
    explained, whole = _explained(np.sort(samples, axis=-1))
    return float(np.quantile(explained.max(-1) / whole, 1 - ALARM))
