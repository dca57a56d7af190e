"""Values of two kinds are told from values of one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.outliers import apart

NORMAL = (2.0, 1.0, 3.5, 0.4, 2.6, 2.2)


def test_one_outlier_two_clusters_and_neither():
    assert apart(NORMAL) == ()
    assert apart((8.9, 9.0, -80.0, 9.5, 8.0, 8.8)) == (2,)
    assert apart((0.0, 10.0, 0.5, 11.0, 1.0, 10.2)) == (0, 2, 4)
    assert apart((9.0, 8.5, 9.2, 70.0, 9.1, 8.8, 71.0, 8.9)) == (3, 6)  # two outliers do not hide each other


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 90.0), (3.0,) * 6])
def test_nothing_stands_apart_among_few_or_equal_values(values):
    assert apart(values) == ()


def test_a_last_digit_sets_nothing_apart():
    values = (1.0, 1.0, 1.0, 1.0, 1.0, 1.28)
    assert apart(values) == (5,) and apart(values, rounding=0.28**2 / 12) == ()
    assert apart((1.0, 1.0, 1.0, 1.0, 1.0, -60.0), rounding=0.28**2 / 12) == (5,)


@given(st.permutations(range(6)), st.floats(-50, 50), st.floats(0.1, 100))
def test_order_place_and_scale_are_of_no_effect(order, shift, scale):
    for values in (NORMAL, (8.9, 9.0, -80.0, 9.5, 8.0, 8.8)):
        moved = [shift + scale * values[place] for place in order]
        assert sorted(order[place] for place in apart(moved)) == list(apart(values))


@pytest.mark.parametrize("seeds", [6, 8, 12, 30])
def test_one_normal_sample_in_a_hundred_is_taken_for_two_kinds(seeds):
    samples = np.random.default_rng(seeds).normal(5.0, 2.0, (3000, seeds))
    assert sum(bool(apart(sample)) for sample in samples.tolist()) / len(samples) == pytest.approx(0.01, abs=0.006)


@pytest.mark.parametrize("seeds", [6, 8, 12, 30])
def test_a_collapse_is_seen_where_there_is_one(seeds):
    samples = np.random.default_rng(seeds).normal(5.0, 2.0, (300, seeds))
    samples[:, 0] -= 60.0
    assert all(apart(sample) == (0,) for sample in samples.tolist())
