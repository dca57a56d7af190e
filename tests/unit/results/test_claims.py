"""Verdicts at their boundaries; how often they are wrong is in test_false_verdicts.py."""

import random

import numpy as np
import pytest
from scipy.stats import norm

from m2mkd.results.judge.arms import exact_p_value, pairs_of
from m2mkd.results.judge.needs import with_needs
from m2mkd.results.judge.pairs import Pair, averaged, rounding_of
from m2mkd.results.judge.verdicts import judge
from tests.claimed import CLAIM, SPREAD, arm, around, claim, pair

HALF = 1.9633
GAIN = claim(size=None, tolerance=0.0)
EQUAL = claim(direction="equal", size=None, tolerance=0.5)


@pytest.mark.parametrize(
    ("middle", "word"),
    [
        (6.0, "holds in typical seeds"),  # [4.04, 7.96]: above 4
        (5.9, "size undecided"),  # [3.94, 7.86]: above 0, 4 not excluded
        (2.0, "direction only"),  # [0.04, 3.96]
        (1.9, "not reproduced"),  # [-0.06, 3.86]: 4 excluded
        (-2.0, "not reproduced"),
        (9.0, "holds in typical seeds"),  # more than claimed is no less
    ],
)
def test_gain_of_a_claimed_size(middle, word):
    verdict = judge(CLAIM, [around(middle)])
    assert verdict.word == word, verdict.why
    assert verdict.interval.estimate == pytest.approx(middle)
    assert verdict.interval.high - middle == pytest.approx(HALF, abs=1e-4)


def test_a_gain_whose_interval_holds_neither_0_nor_the_size_alone_is_undecided():
    assert judge(CLAIM, [around(1.5, 1.4)]).word == "inconclusive"  # [-1.25, 4.25]
    assert judge(CLAIM, [around(3.0, 1.4)]).word == "size undecided"  # [0.25, 5.75]


@pytest.mark.parametrize(
    ("middle", "says"), [(7.0, "lies above 4 in typical"), (9.0, "lies above 4 and beyond 5 ± 1 in typical")]
)  # [7.04, 10.96]
def test_a_gain_beyond_the_claimed_size_says_so(middle, says):
    assert says in judge(CLAIM, [around(middle)]).why


@pytest.mark.parametrize(
    ("middle", "word"),
    [(2.0, "holds in typical seeds"), (1.9, "inconclusive"), (-1.9, "inconclusive"), (-2.0, "not reproduced")],
)
def test_gain_without_a_size(middle, word):
    assert judge(GAIN, [around(middle)]).word == word


def test_a_verdict_holds_at_once_with_those_of_the_other_claims():
    # Of ten claims at once each takes 99.5 %: t(0.9975, 5) = 4.773341, half width 3.6456.
    for middle, word in ((3.7, "holds in typical seeds"), (3.6, "inconclusive")):
        verdict = judge(GAIN, [around(middle)], at_once=10)
        assert verdict.word == word
        assert verdict.interval.high - middle == pytest.approx(HALF, abs=1e-4)
        assert verdict.measured.typical.high - middle == pytest.approx(3.6456, abs=1e-4)
    assert verdict.why.startswith("+3.60 points [+1.64, +5.56] ([-0.05, +7.25] with 10 claims at once) holds 0.")


def test_on_average_over_all_seeds_only_what_collapses_cannot_undo_is_reproduced():
    """Of n seeds none collapsed: by the exact binomial interval 1 - 0.025^(1/n) of all may."""
    # 60 seeds: 5.96 %; a seed that falls from 60 % to 0 costs 3.6 points. Half width 2.000995 * 1.7222 / sqrt(60) = 0.445.
    places = norm.ppf((np.arange(60) + 0.5) / 60)
    many = 1.7222 * places / places.std(ddof=1)
    for middle, word in ((4.1, "reproduced"), (3.9, "holds in typical seeds")):
        one = Pair("one", tuple(0.6 + difference / 100 for difference in many), tuple(0.6 - middle / 100 for _ in many))
        assert judge(GAIN, [one]).word == word
    # The lower end of 3.9 leaves 3.455 / 60 = 5.76 %, which 1 - 0.025^(1/63) = 5.69 % excludes, and 62 seeds with 5.78 % do not.
    assert "63 of which none collapses" in with_needs(GAIN, judge(GAIN, [one])).needs


def test_an_equality_counts_collapses_on_either_side():
    wide = claim(direction="equal", size=None, tolerance=30.0)
    # 46 % of seeds may collapse: from 50 % that is 23 points; within 30 ± 2.3, but from 90 % not.
    assert judge(wide, [around(0.0)]).word == "reproduced"
    assert judge(wide, [around(0.0, control=0.9)]).word == "holds in typical seeds"
    assert "of which none collapses" in with_needs(wide, judge(wide, [around(0.0, control=0.9)])).needs


def test_of_four_arms_those_collapse_together_that_move_the_difference_the_same_way():
    same = arm(*(0.5 + place / 1000 for place in SPREAD))
    (contrast,) = pairs_of([(same, arm(*[0.4] * 6), arm(*[0.3] * 6), arm(*[0.2] * 6))])
    assert contrast.largest_falls == pytest.approx((0.5 + 0.2, 0.4 + 0.3))
    assert averaged([contrast, contrast]).largest_falls == pytest.approx((0.7, 0.7))
    (single,) = pairs_of([(same, arm(*[0.4] * 6))])
    assert single.largest_falls == pytest.approx((0.5, 0.4))
    assert averaged([single, pair(*SPREAD, control=0.9)]).largest_falls == pytest.approx((0.7, 0.65))


def test_a_seed_that_collapses_makes_a_verdict_inconclusive():
    seeds = (8.9, 9.4, 8.1, 9.0, 8.5, -80.0)
    verdict = judge(GAIN, [pair(*seeds, control=0.9)])
    assert verdict.word == "inconclusive"
    assert "one: seed 5 (-80.00) stands apart from the others (+8.78 points on average): of seeds of two kinds" in verdict.why
    assert "A recipe whose seeds agree" in verdict.needs and verdict.interval.estimate == pytest.approx(sum(seeds) / 6)
    assert judge(GAIN, [pair(*seeds[:5], 9.2, control=0.9)]).word == "holds in typical seeds"
    # Also where it would fail, where it is one of several, and where a whole group collapses.
    assert judge(GAIN, [pair(-3, -3.4, -2.6, -3.1, -2.9, 60.0, control=0.3)]).word == "inconclusive"
    two = claim(size=None, tolerance=0.0, population=("one", "two"))
    assert "apart" not in judge(two, [around(5.0), around(5.0, name="two")]).why
    verdict = judge(two, [around(5.0), pair(-60, 9, -61, -58, 8, 8.5, name="two", control=0.7)])
    assert verdict.word == "inconclusive" and "two: seeds 0 (-60.00), 2 (-61.00), 3 (-58.00) stand apart" in verdict.why


def test_the_order_of_the_seeds_is_of_no_effect():
    shuffle = random.Random(3)
    for seeds in ((8.9, 9.4, 8.1, 9.0, 8.5, -80.0), tuple(2.0 + one for one in SPREAD), (0.0, 0.1, 0.2, 5.0, 5.1, 5.3)):
        found = set()
        for _ in range(20):
            mixed = shuffle.sample(seeds, len(seeds))
            verdict = judge(GAIN, [pair(*mixed, control=0.9)])
            found.add((verdict.word, verdict.interval.low, verdict.interval.high))
        assert len(found) == 1


def test_inconclusive_says_what_is_missing():
    # d / 1.8708 with 6 seeds: noncentral t at 80 % power (see the tests of the statistics)
    verdict = with_needs(GAIN, judge(GAIN, [around(1.0)]))
    assert verdict.needs == "6 seeds find 2.68 points with 80 % power; the measured one takes 30."
    sized = with_needs(CLAIM, judge(CLAIM, [around(5.0)]))
    # t(0.975, 15) * 1.8708 / sqrt(16) = 0.997 <= 1 = 5 - 4 < 1.036 with 15
    assert sized.word == "size undecided" and sized.needs == "16 seeds would decide it, if estimate and spread stay."
    for decided in (judge(CLAIM, [around(2.0)]), judge(CLAIM, [around(-3.0)])):
        assert with_needs(CLAIM, decided).needs == ""


@pytest.mark.parametrize(("middle", "word"), [(0.0, "holds in typical seeds"), (0.4, "inconclusive"), (0.8, "not reproduced")])
def test_equality_within_a_tolerance(middle, word):
    assert judge(EQUAL, [around(middle, 0.1)]).word == word  # half width 0.196


@pytest.mark.parametrize(("accuracy", "word"), [(60.76, "holds in typical seeds"), (60.0, "inconclusive"), (55.0, "not reproduced")])
def test_value(accuracy, word):
    value = claim(direction="value", comparison="a", size=60.76, tolerance=1.0)
    one = Pair("one", tuple((accuracy + 0.3 * place) / 100 for place in SPREAD), None)  # half width 0.59
    assert judge(value, [one]).word == word


@pytest.mark.parametrize(
    ("accuracy", "word"),
    [  # of 50,000 images, whose exact interval is 0.34 points to either side
        (0.8240, "reproduced"),
        (0.8176, "reproduced"),  # [81.42, 82.10] in [81.4, 83.4]
        (0.8170, "inconclusive"),  # [81.36, 82.04]
        (0.8110, "inconclusive"),  # [80.75, 81.44]
        (0.8103, "not reproduced"),  # [80.68, 81.37]
    ],
)
def test_value_of_one_run_by_the_images_that_it_measured(accuracy, word):
    value = claim(direction="value", comparison="a", size=82.4, tolerance=1.0, seeds=1)
    verdict = judge(value, [Pair("one", (accuracy,), None, images=50_000)])
    assert verdict.word == word, verdict.why
    assert "in one run, by its images alone," in verdict.why


def test_one_run_is_not_enough_for_anything_else():
    one = Pair("one", (0.824,), None, images=50_000)
    value = claim(direction="value", comparison="a", size=82.4, seeds=1)
    several = value.model_copy(update={"seeds": 6})
    gain = Pair("one", (0.84,), (0.82,), images=50_000)
    uncounted = Pair("one", (0.824,), None)
    for asked, pairs in ((several, [one]), (GAIN, [gain]), (value, [uncounted])):
        verdict = judge(asked, pairs)
        assert verdict.word == "inconclusive" and verdict.why == "1 of the 6 seeds that a verdict takes." and verdict.interval is None
        assert verdict.needs == "5 more seeds of each arm."
    # Of several their own spread decides, and three of them are too few.
    verdict = judge(value, [Pair("one", (0.823, 0.824, 0.825), None, images=50_000)])
    assert verdict.word == "inconclusive" and "in one run" not in verdict.why


def test_five_seeds_are_never_enough_but_show_their_interval():
    verdict = judge(GAIN, [pair(5.0, 5.1, 4.9, 5.2, 4.8)])
    assert verdict.word == "inconclusive" and verdict.interval.low > 4
    assert verdict.why == "+5.00 points [+4.80, +5.20]: 5 of the 6 seeds that a verdict takes."
    assert verdict.needs == "1 more seed of each arm."
    assert judge(claim(seeds=8), [around(9.0)]).needs == "2 more seeds of each arm."


def test_unstated_unit_takes_the_weaker_reading_and_says_both():
    # 2.5 points of 0.5 are 5 % of it, [4.8, 5.2].
    verdict = judge(claim(unit="unstated"), [around(2.5, 0.05)])
    assert verdict.word == "direction only"
    assert "direction only in points; holds in typical seeds in relative terms" in verdict.why
    assert judge(claim(unit="relative"), [around(2.5, 0.05)]).word == "holds in typical seeds"
    assert judge(claim(unit="points"), [around(2.5, 0.05)]).word == "direction only"


def test_each_is_as_good_as_its_worst_member():
    two = claim(population=("one", "two"))
    verdict = judge(two, [around(6.5, 0.1), around(-1.0, 0.1, name="two")])
    assert verdict.word == "not reproduced"
    assert verdict.why.startswith("two: ")
    assert judge(two, [around(6.5, 0.1), around(6.5, 0.1, name="two")]).word == "holds in typical seeds"


def test_mean_pairs_the_seeds_of_the_population():
    both = claim(population=("one", "two"), aggregate="mean")
    # Seed by seed the two cancel, so that the mean is 5 each time.
    assert judge(both, [around(5.0), around(5.0, -1.0, name="two")]).interval.low == pytest.approx(5.0)


@pytest.mark.parametrize(("middle", "word"), [(2.5, "holds in typical seeds"), (2.4, "inconclusive")])
def test_maximum_takes_the_best_with_simultaneous_intervals(middle, word):
    best = claim(population=("one", "two"), aggregate="max", size=None, tolerance=0.0)
    # At 97.5 %: t(0.9875, 5) = 3.163381, half width 2.416; alone it would be 1.963.
    pairs = [pair(0.0, 0.1, -0.1, 0.05, -0.05, 0.0), around(middle, name="two")]
    assert judge(best, pairs).word == word
    assert judge(GAIN, pairs[1:]).word == "holds in typical seeds"


def test_sides_of_unequal_numbers_of_seeds_are_not_paired():
    """As where one side is a checkpoint of others, which counts once."""
    for treated, control in (((0.9, 0.91, 0.92), (0.8,)), ((0.9,), (0.8, 0.81, 0.82))):
        verdict = judge(CLAIM, [Pair("one", treated, control)])
        assert verdict.word == "inconclusive" and "1 and 3 seeds cannot be paired" in verdict.why and verdict.needs
    mean = claim(population=("one", "two"), aggregate="mean")
    assert judge(mean, [pair(1.0, 2.0, 3.0), pair(1.0, name="two")]).word == "inconclusive"


def test_a_baseline_that_is_not_known_bounds_no_relative_gain():
    relative = claim(unit="relative")
    verdict = judge(relative, [Pair("one", (0.9,) * 6, (0.1, 0.9) * 3)])  # control: t interval [0.04, 0.96] at 95 % alone
    assert verdict.interval is not None
    unsure = Pair("one", (0.9,) * 6, (0.0, 0.02, 0.05, 0.1, 0.2, 0.35))  # [-0.02, 0.26]
    verdict = judge(relative, [unsure])
    assert verdict.word == "inconclusive" and "own interval holds 0" in verdict.why and verdict.needs
    nothing = Pair("one", (0.9,) * 6, (0.0,) * 6)
    assert judge(relative, [nothing]).word == "inconclusive"
    best = claim(unit="relative", aggregate="max", population=("one", "two"))
    assert judge(best, [nothing, around(5.0, name="two")]).word == "inconclusive"


def test_a_relative_gain_counts_the_noise_of_its_baseline():
    # The differences are 20 points each time, but of a baseline between 0.35 and 0.45, of standard deviation 0.037417.
    control = [0.4 + place / 50 for place in SPREAD]
    verdict = judge(claim(unit="relative", size=50.0), [Pair("one", tuple(0.2 + one for one in control), tuple(control))])
    assert verdict.interval.estimate == pytest.approx(50.0)
    # Fieller: bounds r of 0.6 - 0.4 r = ± 0.039266 * |1 - r|, of which r - 1 = 0.2 / (0.4 ± 0.039266)
    assert (verdict.interval.low, verdict.interval.high) == pytest.approx((100 * 0.2 / 0.439266, 100 * 0.2 / 0.360734), abs=0.05)


@pytest.mark.parametrize(("images", "word"), [(10_000, "holds in typical seeds"), (100, "inconclusive"), (None, "holds in typical seeds")])
def test_seeds_that_agree_by_chance_are_not_taken_for_certain(images, word):
    # A difference of 0.28 points in each of six seeds is 28 images of 10,000, and less than one of 100.
    gain = Pair("one", (0.5 + 1 / 359,) * 6, (0.5,) * 6, rounding_of(images))
    for unit in ("points", "relative"):
        assert judge(claim(size=None, tolerance=0.0, unit=unit), [gain]).word == word


def test_a_last_digit_sets_no_seed_apart():
    differences = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0 + 100 / 359)
    shares = tuple(0.5 + one / 100 for one in differences)
    assert "stands apart" in judge(GAIN, [Pair("one", shares, (0.5,) * 6)]).why
    assert judge(GAIN, [Pair("one", shares, (0.5,) * 6, rounding_of(359))]).word == "holds in typical seeds"


@pytest.mark.parametrize(
    ("changes", "one", "says"),
    [  # sqrt(2 / 12) / 40 = 1.0206 points, of 0.5 twice as many %, times 1.4349 (see the tests of the statistics)
        ({}, Pair("one", (0.51,) * 6, (0.5,) * 6, rounding_of(40)), "6 seeds find 1.46 points with 80 % power; the measured one takes 11."),
        ({"unit": "relative"}, Pair("one", (0.51,) * 6, (0.5,) * 6, rounding_of(40)), "6 seeds find 2.9"),
        # t(0.975, 18) * 100 * sqrt(2 / 12) / 40 / sqrt(19) = 0.492; with one side alone t(0.975, 10) * 0.7217 / sqrt(11) = 0.485
        ({"direction": "equal", "tolerance": 0.5}, Pair("one", (0.5,) * 6, (0.5,) * 6, rounding_of(40)), "19 seeds would decide it"),
        (
            {"direction": "value", "comparison": "a", "size": 50.0, "tolerance": 0.5},
            Pair("one", (0.5,) * 6, None, rounding_of(40)),
            "11 seeds would decide it",
        ),
    ],
)
def test_what_is_missing_counts_the_rounding_of_seeds_that_agree(changes, one, says):
    asked = claim(**{"size": None, "tolerance": 0.0} | changes)
    verdict = with_needs(asked, judge(asked, [one]))
    assert verdict.word == "inconclusive" and says in verdict.needs


def test_what_is_missing_is_of_the_best_member_at_the_simultaneous_level():
    best = claim(population=("one", "two"), aggregate="max", size=None, tolerance=0.0)
    pairs = [around(0.0, 0.1), around(1.0, name="two")]
    found, alone, board = (with_needs(asked, judge(asked, given, count)).needs for asked, given, count in (
        (best, pairs, 1), (GAIN, pairs[1:], 1), (GAIN, pairs[1:], 2)))  # fmt: skip
    # Two members, and two claims at once, ask for the same level.
    assert found == board != alone


def test_what_is_missing_of_a_ratio_counts_to_first_order():
    # With r = 1: (0.5 - control) / 0.5 is +20, 0, -20 %, of mean 0 and spread 17.889; plain ratios would be +25, 0, -16.67.
    one = Pair("one", (0.5,) * 6, (0.4, 0.5, 0.6) * 2)
    assert one.values("relative") == pytest.approx([20.0, 0.0, -20.0] * 2)
    asked = claim(unit="relative", size=None, tolerance=0.0)
    # 17.8885 * 1.43455
    assert "6 seeds find 25.66 % of the baseline with 80 % power" in with_needs(asked, judge(asked, [one])).needs


def test_what_a_band_misses_is_measured_against_its_edge():
    # Estimate 0.4, spread 0.18708, band ± 0.5: the margin 0.1 needs t(0.975, n - 1) * 0.18708 / sqrt(n) <= 0.1, that is 16 seeds.
    verdict = with_needs(EQUAL, judge(EQUAL, [around(0.4, 0.1)]))
    assert verdict.word == "inconclusive"
    assert verdict.needs == "16 seeds would decide it, if estimate and spread stay."


def test_rounding_adds_up_over_sides_and_averages_over_members():
    # One image of the side of 100 is 1 point, of variance 1 / 12 in each accuracy that agrees; t(0.975, 2) = 4.302653.
    a, b, c, d = arm(0.5, 0.5, 0.5, images=400), arm(0.25, 0.25, 0.25), arm(0.75, 0.75, 0.75), arm(0.5, 0.5, 0.5, images=400)
    for pairs, accuracies in ((pairs_of([(a, b)]), 2), (pairs_of([(a, b, c, d)]), 4), ([averaged(pairs_of([(a, b)] * 4))], 2 / 4)):
        interval = pairs[0].interval("points", 0.95)
        assert interval.high - interval.estimate == pytest.approx(4.302653 * (accuracies / 12 / 3) ** 0.5, abs=1e-5)


@pytest.mark.parametrize(("aggregate", "p_value"), [("each", 10 / 64), ("max", 2 * 2 / 64), ("mean", 2 / 64)])
def test_an_exact_test_is_of_the_population_as_it_is_spoken_of(aggregate, p_value):
    # Of 1 to 6 every flip lowers the sum. With -3 it is 15, and 5 flips of the 64 reach that (of nothing, 1, 2, 3, and 1 with 2), on either
    # side. The mean of both by seed is 3.5 five times and 0.5.
    gains = (6, 5, 4, -3, 2, 1), (1, 2, 3, 4, 5, 6)
    comparisons = [(arm(*(0.5 + gain / 64 for gain in one)), arm(*[0.5] * 6)) for one in gains]
    asked = claim(aggregate=aggregate, population=("one", "two"))
    assert exact_p_value(asked, comparisons) == pytest.approx(p_value)
