"""Statistics against textbooks, by hand, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from m2mkd.config.claims import FEWEST_SEEDS
from m2mkd.statistics import (
    Interval,
    binomial_interval,
    bootstrap_interval,
    holm,
    interval_of_maximum,
    mean,
    minimum_detectable_difference,
    p_value,
    permutation_test,
    power_of_t_test,
    ratio_interval,
    seeds_for_half_width,
    seeds_to_detect,
    seeds_to_exclude,
    sign_test,
    simultaneous_level,
    std,
    summarise,
    t_interval,
)

shares = st.lists(st.floats(0, 1), min_size=2, max_size=20)
pairs = st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)), min_size=2, max_size=8)
STUDIES = 2000


def test_p_values_are_those_of_scipy_and_agree_with_the_interval():
    gains = [1.2, -0.4, 0.9, 2.1, 0.3, 0.8]
    assert p_value(gains) == pytest.approx(ttest_1samp(gains, 0).pvalue, rel=1e-12)
    level = 1 - p_value(gains)
    assert t_interval(gains, level).low == pytest.approx(0, abs=1e-12)
    assert p_value([1.0]) is None
    assert p_value([0.0, 0.0]) == 1 and p_value([0.5, 0.5]) == 0


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.3: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.3, never smaller than the one before.
    assert holm([0.03, 0.01, 0.3, 0.02]) == pytest.approx([0.06, 0.04, 0.3, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    for adjusted, p in zip(holm(p_values), p_values, strict=True):
        assert p <= adjusted <= min(1, len(p_values) * p) + 1e-15


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


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_interval_of_the_maximum_covers_the_largest_mean(seeds):
    """Four equal means are the worst case: the largest estimate is biased upwards."""
    draws = np.random.default_rng(1).normal(0.0, 1.0, (STUDIES, 4, seeds))
    level = simultaneous_level(4)
    found = [interval_of_maximum([t_interval(values, level) for values in study]) for study in draws.tolist()]
    assert sum(0.0 in interval for interval in found) / STUDIES >= 0.95
    assert sum(interval.low > 0 for interval in found) / STUDIES < 0.05
    assert mean(interval.estimate for interval in found) > 0.7 / math.sqrt(seeds), "the bias that the interval allows for"


def test_simultaneous_intervals_are_wider_by_bonferroni():
    one = t_interval([1.0, 2.0, 3.0], simultaneous_level(2))
    # t(0.9875, 2) = 6.205347
    assert one.high - one.estimate == pytest.approx(6.205347 / math.sqrt(3), abs=1e-5)
    two = t_interval([4.0, 4.5, 6.0], simultaneous_level(2))
    assert interval_of_maximum([one, two]) == Interval(two.estimate, two.low, two.high)


def test_seeds_that_agree_are_known_no_better_than_they_were_counted():
    assert t_interval([0.5, 0.5, 0.5]).high == 0.5
    counted = t_interval([0.5, 0.5, 0.5], rounding=0.03)
    assert counted.high - 0.5 == pytest.approx(4.302653 * math.sqrt(0.03 / 3), abs=1e-6)
    # A spread above that of rounding is what counts.
    assert t_interval([1.0, 2.0, 3.0], rounding=0.03) == t_interval([1.0, 2.0, 3.0])


@given(pairs, st.floats(0.5, 0.99))
def test_at_a_bound_of_the_ratio_the_difference_could_just_be_nothing(found, level):
    numerators, denominators = zip(*found, strict=True)
    interval = ratio_interval(numerators, denominators, level)
    assume(interval is not None and interval.high < 100)
    for side in ("low", "high"):
        bound = getattr(interval, side)
        differences = t_interval([one - bound * other for one, other in found], level)
        assert getattr(differences, side) == pytest.approx(0, abs=1e-6)


def test_a_ratio_by_hand():
    # Uncorrelated pairs of means 2 and 1, variances 1 and 1/4, n 3: with k = 4.302653^2 / 3 = 6.170941
    # the bounds are (2 ± sqrt(4 - (1 - k / 4)(4 - k))) / (1 - k / 4), and 1 - k / 4 < 0: no bounded interval.
    assert ratio_interval([1.0, 2.0, 3.0], [1.25, 0.5, 1.25]) is None
    # At 50 % k = 0.816497^2 / 3 = 2 / 9: (2 ± sqrt(4 - 17 / 18 * 34 / 9)) / (17 / 18), where the variance of the second is 1 / 4.
    numerators, denominators = [1.0, 2.0, 3.0], [1 + math.sqrt(1 / 12), 1 - 2 * math.sqrt(1 / 12), 1 + math.sqrt(1 / 12)]
    found = ratio_interval(numerators, denominators, 0.5)
    root = math.sqrt(4 - 17 / 18 * 34 / 9)
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, (2 - root) / (17 / 18), (2 + root) / (17 / 18)))
    assert ratio_interval([1.0], [1.0]) is None


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_interval_of_a_ratio_covers_what_it_promises(seeds):
    """Where A is half as much again as B and both are noisy; divided by B's mean as if it were known, too few are covered."""
    random = np.random.default_rng(seeds)
    controls = random.normal(0.4, 0.04, (STUDIES, seeds))
    treated = random.normal(0.6, 0.01, (STUDIES, seeds))
    found = [ratio_interval(one, other) for one, other in zip(treated.tolist(), controls.tolist(), strict=True)]
    assert 0.93 <= sum(interval is None or 1.5 in interval for interval in found) / STUDIES <= 0.97
    naive = [t_interval(((one - other) / other.mean() + 1).tolist()) for one, other in zip(treated, controls, strict=True)]
    assert sum(1.5 in interval for interval in naive) / STUDIES < 0.93


def test_bootstrap_only_where_it_keeps_its_word():
    with pytest.raises(ValueError, match="at least 20 values"):
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


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (7, 10), (359, 360), (4871, 10000)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_binomial_interval_is_scipys(correct, count, level):
    theirs = binomtest(correct, count).proportion_ci(level, method="exact")
    ours = binomial_interval(correct, count, level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_exact_tests_of_signs_and_flips():
    assert sign_test([1, 1, 1, 1, 1, 1]) == 2 / 2**6
    assert sign_test([1, -1, 0]) == 1.0
    # Of the 2^4 flips of 1, 2, 3, 4 those with a sum of at least 8 in size: 10 and 8 and their negatives.
    assert permutation_test([-1, 2, 3, 4]) == pytest.approx(4 / 16)
    assert permutation_test([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)


@pytest.mark.parametrize(("seeds", "smallest"), [(5, 0.0625), (6, 0.03125)])
def test_six_seeds_reach_the_level_and_five_do_not(seeds, smallest):
    assert permutation_test([1.0 + 0.1 * seed for seed in range(seeds)]) == pytest.approx(smallest)
    assert (smallest < 0.05) == (seeds >= FEWEST_SEEDS)


def test_power_of_a_table():
    # Cohen: a paired test at 0.05 with effect 0.5 reaches 80 % with 34 pairs, with effect 0.8 with 15, with effect 1 with 10.
    assert [seeds_to_detect(effect, 1.0) for effect in (0.5, 0.8, 1.0)] == [34, 15, 10]
    assert power_of_t_test(0.5, 1.0, 34) == pytest.approx(0.808, abs=2e-3)
    assert minimum_detectable_difference(1.0, 34) == pytest.approx(0.4958, abs=1e-3)
    assert seeds_to_detect(1e-6, 1.0) is None
    assert seeds_to_detect(0.5, 0.0) == 2
    assert minimum_detectable_difference(1.0, 1) == math.inf
    assert minimum_detectable_difference(0.0, 3) == 0.0


@pytest.mark.parametrize("seeds", [6, 8, 12])
@pytest.mark.parametrize("claims", [1, 8, 30])
def test_huge_differences_are_found_for_certain(seeds, claims):
    # Where the noncentral t distribution is so small that its library gives up.
    assert all(power_of_t_test(size, 1.0, seeds, simultaneous_level(claims)) > 0.999 for size in np.linspace(8.0, 1000.0, 500).tolist())


def test_seeds_that_exclude_a_share_of_collapses():
    # 0.9^36 = 0.0225 <= 0.025 < 0.9^35 = 0.0250297
    assert seeds_to_exclude(0.1) == 36
    assert seeds_to_exclude(0.5) == 6 and seeds_to_exclude(1e-6) is None and seeds_to_exclude(0.0) is None


def test_seeds_that_make_an_interval_narrow():
    # t(0.975, 6) / sqrt(7) = 2.446912 / 2.645751 = 0.925, and with six seeds 2.570582 / 2.449490 = 1.049
    assert seeds_for_half_width(1.0, 1.0) == 7
    assert seeds_for_half_width(0.0, 1.0) == 2
    assert seeds_for_half_width(1.0, 0.0) is None
