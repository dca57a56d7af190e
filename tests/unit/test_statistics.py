"""Statistics against textbooks, by hand, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.statistics import (
    binomial_interval,
    bootstrap_interval,
    gains,
    holm,
    interval_of_maximum,
    mean,
    minimum_detectable_difference,
    permutation_test,
    power_of_t_test,
    seeds_to_detect,
    sign_test,
    simultaneous_t_intervals,
    smallest_p_value,
    std,
    summarise,
    t_interval,
)

shares = st.lists(st.floats(0, 1), min_size=2, max_size=20)
STUDIES = 2000


def test_by_hand():
    assert mean([0.90, 0.92, 0.97]) == pytest.approx(0.93, abs=1e-15)
    # deviations -0.03, -0.01, 0.04: (0.0009 + 0.0001 + 0.0016) / (3 - 1)
    assert std([0.90, 0.92, 0.97]) == pytest.approx(math.sqrt(0.0013), abs=1e-15)


def test_one_value_has_no_deviation_and_no_interval():
    assert std([0.5]) is None
    assert t_interval([0.5]) is None
    summary = summarise([0.5])
    assert (summary.n, summary.mean, summary.std, summary.half_width) == (1, 0.5, None, None)


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


def test_t_interval_of_a_table():
    # t(0.975, 2) = 4.302653, t(0.975, 9) = 2.262157 (any table); mean 2, std 1, n 3.
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval is not None
    assert interval.high - interval.estimate == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    values = list(range(10))
    interval = t_interval(values)
    assert interval is not None
    assert interval.high - 4.5 == pytest.approx(2.262157 * math.sqrt(82.5 / 9) / math.sqrt(10), abs=1e-6)
    assert 4.5 in interval and 9 not in interval


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_t_interval_covers_what_it_promises(seeds):
    draws = np.random.default_rng(seeds).normal(0.7, 2.0, (STUDIES, seeds))
    covered = sum(0.7 in (t_interval(study) or ()) for study in draws.tolist())
    assert 0.93 <= covered / STUDIES <= 0.97


def test_interval_of_the_maximum_covers_the_largest_mean():
    """Four equal means are the worst case: the largest estimate is biased upwards."""
    draws = np.random.default_rng(1).normal(0.0, 1.0, (STUDIES, 4, 3))
    found = [interval_of_maximum(study) for study in draws.tolist()]
    assert sum(0.0 in interval for interval in found if interval) / STUDIES >= 0.95
    assert sum(interval.low > 0 for interval in found if interval) / STUDIES < 0.05
    assert mean(interval.estimate for interval in found if interval) > 0.4, "the bias that the interval allows for"


def test_simultaneous_intervals_are_wider_by_bonferroni():
    (one, _) = simultaneous_t_intervals([[1.0, 2.0, 3.0], [4.0, 4.5, 6.0]]) or (None, None)
    assert one is not None
    # t(0.9875, 2) = 6.205347
    assert one.high - one.estimate == pytest.approx(6.205347 / math.sqrt(3), abs=1e-5)
    assert simultaneous_t_intervals([[1.0, 2.0], [3.0]]) is None
    assert interval_of_maximum([[1.0, 2.0], [3.0]]) is None


def test_bootstrap_only_where_it_keeps_its_word():
    with pytest.raises(ValueError, match="needs 20"):
        bootstrap_interval([0.1] * 19)
    values = np.random.default_rng(0).normal(1.0, 1.0, 40).tolist()
    found, student = bootstrap_interval(values), t_interval(values)
    assert student is not None
    assert found.low == pytest.approx(student.low, abs=0.05)
    assert found.high == pytest.approx(student.high, abs=0.05)


def test_binomial_interval_of_a_table():
    # Clopper-Pearson, 5 of 10: 0.1871 to 0.8129; 0 of 10: 0 to 0.3085 (any table).
    assert (binomial_interval(5, 10).low, binomial_interval(5, 10).high) == pytest.approx((0.1871, 0.8129), abs=5e-5)
    assert (binomial_interval(0, 10).low, binomial_interval(0, 10).high) == pytest.approx((0.0, 0.3085), abs=5e-5)


def test_exact_tests_of_signs_and_flips():
    assert sign_test([1, 1, 1, 1, 1, 1]) == 2 / 2**6
    assert sign_test([1, -1, 0]) == 1.0
    # Of the 2^4 flips of 1, 2, 3, 4 those with a sum of at least 8 in size: 10 and 8 and their negatives.
    assert permutation_test([-1, 2, 3, 4]) == pytest.approx(4 / 16)
    assert permutation_test([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)


@pytest.mark.parametrize(("seeds", "smallest"), [(1, 1.0), (5, 0.0625), (6, 0.03125)])
def test_six_seeds_reach_the_level_and_five_do_not(seeds, smallest):
    assert smallest_p_value(seeds) == smallest
    assert permutation_test([1.0 + 0.1 * seed for seed in range(seeds)]) == pytest.approx(smallest)


def test_holm_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_power_of_a_table():
    # Cohen: a paired test at 0.05 with effect 0.5 reaches 80 % with 34 pairs, with effect 0.8 with 15, with effect 1 with 10.
    assert [seeds_to_detect(effect, 1.0) for effect in (0.5, 0.8, 1.0)] == [34, 15, 10]
    assert power_of_t_test(0.5, 1.0, 34) == pytest.approx(0.808, abs=2e-3)
    assert minimum_detectable_difference(1.0, 34) == pytest.approx(0.4958, abs=1e-3)
    assert seeds_to_detect(1e-6, 1.0) is None
    assert seeds_to_detect(0.5, 0.0) == 2
    assert minimum_detectable_difference(1.0, 1) == math.inf
    assert minimum_detectable_difference(0.0, 3) == 0.0


def test_gains_in_points_and_relative():
    assert gains([0.5, 0.6], [0.4, 0.4], "points") == pytest.approx([10.0, 20.0])
    assert gains([0.5, 0.6], [0.4, 0.4], "relative") == pytest.approx([25.0, 50.0])
    with pytest.raises(ValueError, match="argument 2 is"):
        gains([0.5], [0.4, 0.4], "points")
