import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.results.statistics import mean, std, summarise

shares = st.lists(st.floats(0, 1), min_size=2, max_size=20)


def test_by_hand():
    assert mean([0.90, 0.92, 0.97]) == pytest.approx(0.93, abs=1e-15)
    # deviations -0.03, -0.01, 0.04: (0.0009 + 0.0001 + 0.0016) / (3 - 1)
    assert std([0.90, 0.92, 0.97]) == pytest.approx(math.sqrt(0.0013), abs=1e-15)


def test_one_value_has_no_deviation():
    assert std([0.5]) is None
    summary = summarise([0.5])
    assert (summary.n, summary.mean, summary.std) == (1, 0.5, None)


def test_no_value_is_refused():
    with pytest.raises(ValueError, match="no values"):
        summarise([])


@given(shares)
def test_order_is_of_no_effect(values):
    assert mean(values) == mean(sorted(values))
    assert std(values) == std(sorted(values))


@given(shares, st.floats(-1, 1))
def test_a_shift_moves_the_mean_alone(values, shift):
    moved = [value + shift for value in values]
    assert mean(moved) == pytest.approx(mean(values) + shift, abs=1e-12)
    assert std(moved) == pytest.approx(std(values), abs=1e-12)
