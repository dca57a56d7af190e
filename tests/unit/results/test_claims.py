"""Verdicts at their boundaries, and how often they are wrong where nothing is true."""

from pathlib import Path

import numpy as np
import pytest

from m2mkd.config.claims import Claim, load_claims
from m2mkd.errors import InputError
from m2mkd.results.judge import verdicts
from m2mkd.results.judge.arms import Arm, Seed, exact_p_value, pairs_of
from m2mkd.results.judge.verdicts import Pair, averaged, judge, rounding_of

CLAIM = Claim(
    id="gain",
    claim="A is better than B.",
    source="here",
    status="PREDICTED",
    subject="suite",
    profile="corrected",
    metric="iid_top1",
    population=("one",),
    comparison="a - b",
    aggregate="each",
    direction="greater",
    size=5.0,
    unit="points",
    tolerance=1.0,
    scale="small",
    seeds=3,
)


def pair(*differences: float, control: float = 0.5, name: str = "one") -> Pair:
    """Seeds whose accuracies differ by so many points."""
    return Pair(name, tuple(control + difference / 100 for difference in differences), (control,) * len(differences))


def arm(*accuracies: float, images: int = 100) -> Arm:
    seeds = tuple(Seed(seed, "evaluate/0", share, None, None) for seed, share in enumerate(accuracies))
    return Arm("one", "a", "corrected", seeds, images, 0.1)


def claim(**changes) -> Claim:
    return Claim.model_validate(CLAIM.model_dump() | changes)


# The half width of three seeds at d - 1, d, d + 1 is 4.3027 / sqrt(3) = 2.484.
@pytest.mark.parametrize(
    ("middle", "word"),
    [
        (2.6, "reproduced"),  # [0.12, 5.08]: above 0, and 4 not excluded
        (1.6, "inconclusive"),  # [-0.88, 4.08]: neither 0 nor 4 excluded
        (1.4, "not reproduced"),  # [-1.08, 3.88]: 4 excluded
        (-3.0, "not reproduced"),
        (9.0, "reproduced"),  # more than claimed is no less
    ],
)
def test_gain_of_a_claimed_size(middle, word):
    verdict = judge(CLAIM, [pair(middle - 1, middle, middle + 1)])
    assert verdict.word == word, verdict.why
    assert verdict.interval is not None
    assert verdict.interval.estimate == pytest.approx(middle)


@pytest.mark.parametrize(("middle", "says"), [(2.6, "0 and does not exclude 5 ± 1."), (9.0, "0, and beyond 5 ± 1.")])  # [6.52, 11.48]
def test_a_gain_beyond_the_claimed_size_says_so(middle, says):
    assert judge(CLAIM, [pair(middle - 1, middle, middle + 1)]).why.endswith(says)


def test_a_sure_small_gain_confirms_the_direction_only():
    assert judge(CLAIM, [pair(2.0, 2.1, 2.2)]).word == "direction only"


@pytest.mark.parametrize(("middle", "word"), [(2.6, "reproduced"), (2.4, "inconclusive"), (-2.4, "inconclusive"), (-2.6, "not reproduced")])
def test_gain_without_a_size(middle, word):
    assert judge(claim(size=None, tolerance=0.0), [pair(middle - 1, middle, middle + 1)]).word == word


def test_inconclusive_says_what_is_missing():
    verdict = judge(claim(size=None, tolerance=0.0), [pair(0.0, 1.0, 2.0)])
    # std 1: 3 seeds find 3.26 points, a difference of 1 takes 10 seeds (see the tests of the statistics)
    assert "3 seeds find 3.26 points with 80 % power; the measured one takes 10" in verdict.why


@pytest.mark.parametrize(("middle", "word"), [(0.0, "reproduced"), (0.3, "inconclusive"), (0.9, "not reproduced")])
def test_equality_within_a_tolerance(middle, word):
    equal = claim(direction="equal", size=None, tolerance=0.5)
    # half width 0.2484
    assert judge(equal, [pair(middle - 0.1, middle, middle + 0.1)]).word == word


@pytest.mark.parametrize(("accuracy", "word"), [(0.6076, "reproduced"), (0.60, "inconclusive"), (0.55, "not reproduced")])
def test_value(accuracy, word):
    value = claim(direction="value", comparison="a", size=60.76, tolerance=1.0)
    assert judge(value, [Pair("one", (accuracy - 0.001, accuracy, accuracy + 0.001), None)]).word == word


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
    several = value.model_copy(update={"seeds": 3})
    assert "1 of the 3 seeds" in judge(several, [one]).why
    mean = claim(direction="value", comparison="a", size=82.4, seeds=1, aggregate="mean", population=("one", "two"))
    gain = Pair("one", (0.84,), (0.82,), images=50_000)
    uncounted = Pair("one", (0.824,), None)
    for asked, pairs in ((mean, [one, one]), (claim(seeds=1), [gain]), (value, [uncounted])):
        verdict = judge(asked, pairs)
        assert verdict.word == "inconclusive" and "One seed has no interval" in verdict.why
    # Of more seeds than it asks for their own spread decides.
    assert "in one run" not in judge(value, [Pair("one", (0.823, 0.824, 0.825), None, images=50_000)]).why


def test_unstated_unit_takes_the_weaker_reading_and_says_both():
    # 2.5 points of 0.5 are 5 % of it.
    verdict = judge(claim(unit="unstated"), [pair(2.4, 2.5, 2.6)])
    assert verdict.word == "direction only"
    assert "direction only in points; reproduced in relative terms" in verdict.why
    assert judge(claim(unit="relative"), [pair(2.4, 2.5, 2.6)]).word == "reproduced"
    assert judge(claim(unit="points"), [pair(2.4, 2.5, 2.6)]).word == "direction only"


def test_each_is_as_good_as_its_worst_member():
    two = claim(population=("one", "two"))
    verdict = judge(two, [pair(4.9, 5.0, 5.1), pair(-1.0, -1.1, -0.9, name="two")])
    assert verdict.word == "not reproduced"
    assert verdict.why.startswith("two: ")


def test_mean_pairs_the_seeds_of_the_population():
    both = claim(population=("one", "two"), aggregate="mean")
    # Seed by seed the two cancel, so that the mean is 5 each time.
    assert judge(both, [pair(4.0, 6.0, 5.0), pair(6.0, 4.0, 5.0, name="two")]).interval.low == pytest.approx(5.0)


@pytest.mark.parametrize(("middle", "word"), [(3.7, "reproduced"), (3.4, "inconclusive")])
def test_maximum_takes_the_best_with_simultaneous_intervals(middle, word):
    best = claim(population=("one", "two"), aggregate="max")
    # At 97.5 % the half width is 6.2053 / sqrt(3) = 3.583; alone it would be 2.484.
    pairs = [pair(0.0, 0.1, -0.1), pair(middle - 1, middle, middle + 1, name="two")]
    assert judge(best, pairs).word == word
    assert judge(CLAIM, pairs[1:]).word == "reproduced"


def test_too_few_seeds_are_never_enough():
    verdict = judge(CLAIM, [pair(5.0, 5.0)])
    assert verdict.word == "inconclusive"
    assert "1 more" in verdict.why
    assert judge(claim(seeds=1), [pair(5.0)]).word == "inconclusive"


def test_sides_of_unequal_numbers_of_seeds_are_not_paired():
    """As where one side is a checkpoint of others, which counts once."""
    for treated, control in (((0.9, 0.91, 0.92), (0.8,)), ((0.9,), (0.8, 0.81, 0.82))):
        verdict = judge(CLAIM, [Pair("one", treated, control)])
        assert verdict.word == "inconclusive" and "1 and 3 seeds cannot be paired" in verdict.why
    mean = claim(population=("one", "two"), aggregate="mean")
    assert judge(mean, [pair(1.0, 2.0, 3.0), pair(1.0, name="two")]).word == "inconclusive"


def test_a_baseline_that_is_not_known_bounds_no_relative_gain():
    # Control 0.1, 0.5, 0.9: t interval [-0.49, 1.49].
    verdict = judge(claim(unit="relative"), [Pair("one", (0.9, 0.9, 0.9), (0.1, 0.5, 0.9))])
    assert verdict.word == "inconclusive" and "own interval holds 0" in verdict.why
    nothing = Pair("one", (0.9, 0.9, 0.9), (0.0, 0.0, 0.0))
    assert judge(claim(unit="relative"), [nothing]).word == "inconclusive"
    best = claim(unit="relative", aggregate="max", population=("one", "two"))
    assert judge(best, [nothing, pair(5.0, 5.1, 4.9, name="two")]).word == "inconclusive"


def test_a_relative_gain_counts_the_noise_of_its_baseline():
    # The differences are 20 points each time, but of a baseline between 0.3 and 0.5.
    verdict = judge(claim(unit="relative", size=50.0), [Pair("one", (0.5, 0.6, 0.7), (0.3, 0.4, 0.5))])
    assert verdict.interval.estimate == pytest.approx(50.0)
    # Fieller: bounds r of 0.6 - 0.4 r = ± 2.484 * 0.1 * |1 - r|, of which r - 1 = 0.2 / (0.4 ± 0.2484)
    assert (verdict.interval.low, verdict.interval.high) == pytest.approx((100 * 0.2 / 0.64841, 100 * 0.2 / 0.15159), abs=0.05)


@pytest.mark.parametrize(("images", "word"), [(10_000, "reproduced"), (359, "inconclusive"), (None, "reproduced")])
def test_seeds_that_agree_by_chance_are_not_taken_for_certain(images, word):
    # One image of 359 more in each of three seeds; 28 of 10,000.
    gain = Pair("one", (0.5 + 1 / 359,) * 3, (0.5,) * 3, rounding_of(images))
    for unit in ("points", "relative"):
        assert judge(claim(size=None, tolerance=0.0, unit=unit), [gain]).word == word


@pytest.mark.parametrize(
    ("changes", "one", "says"),
    [  # one image more in each seed: sqrt(2 / 12) / 359 = 0.1137 points, of 0.5 0.2274 %, times 3.264 (see the tests of the statistics)
        (
            {},
            Pair("one", (0.5 + 1 / 359,) * 3, (0.5,) * 3, rounding_of(359)),
            "3 seeds find 0.37 points with 80 % power; the measured one takes 4.",
        ),
        ({"unit": "relative"}, Pair("one", (0.5 + 1 / 359,) * 3, (0.5,) * 3, rounding_of(359)), "3 seeds find 0.74 % of the baseline"),
        # t(0.975, 18) * 100 * sqrt(2 / 12) / 40 / sqrt(19) = 0.492; with one side alone t(0.975, 10) * 0.7217 / sqrt(11) = 0.485
        ({"direction": "equal", "tolerance": 0.5}, Pair("one", (0.5,) * 3, (0.5,) * 3, rounding_of(40)), " 19 seeds would decide it"),
        (
            {"direction": "value", "comparison": "a", "size": 50.0, "tolerance": 0.5},
            Pair("one", (0.5,) * 3, None, rounding_of(40)),
            " 11 seeds would decide it",
        ),
    ],
)
def test_what_is_missing_counts_the_rounding_of_seeds_that_agree(changes, one, says):
    verdict = judge(claim(**{"size": None, "tolerance": 0.0} | changes), [one])
    assert verdict.word == "inconclusive" and says in verdict.why


def test_what_is_missing_is_of_the_best_member_at_the_simultaneous_level():
    # At 97.5 %: of spread 1 three seeds find 4.62, and 1 takes 13 (noncentral t); the first member has spread 0.1.
    best = claim(population=("one", "two"), aggregate="max", size=None, tolerance=0.0)
    verdict = judge(best, [pair(-0.1, 0.0, 0.1), pair(0.0, 1.0, 2.0, name="two")])
    assert "3 seeds find 4.62 points with 80 % power; the measured one takes 13." in verdict.why
    # t(0.9875, 4) * 0.1 / sqrt(5) = 0.156 <= 0.2 < 0.209 = t(0.9875, 3) * 0.1 / sqrt(4); at 95 % four would do
    both = claim(population=("one", "two"), direction="equal", size=None, tolerance=0.5)
    verdict = judge(both, [pair(0.2, 0.3, 0.4), pair(0.0, 0.0, 0.0, name="two")])
    assert verdict.why.startswith("one: ") and "5 seeds would decide it" in verdict.why


def test_what_is_missing_of_a_ratio_counts_to_first_order():
    # With r = 1: (0.5 - control) / 0.5 is +20, 0, -20 %, of mean 0 and spread 20; plain ratios would be +25, 0, -16.67.
    one = Pair("one", (0.5, 0.5, 0.5), (0.4, 0.5, 0.6))
    assert one.values("relative") == pytest.approx([20.0, 0.0, -20.0])
    verdict = judge(claim(unit="relative", size=None, tolerance=0.0), [one])
    assert "3 seeds find 65.28 % of the baseline with 80 % power" in verdict.why


def test_what_a_band_misses_is_measured_against_its_edge():
    # Estimate 0.3 from 0.2 to 0.4, band ± 0.5: the margin 0.2 needs t(0.975, n - 1) * 0.1 / sqrt(n) <= 0.2, that is 4 seeds.
    verdict = judge(claim(direction="equal", size=None, tolerance=0.5), [pair(0.2, 0.3, 0.4)])
    assert verdict.word == "inconclusive"
    assert verdict.why.endswith("4 seeds would decide it, if estimate and spread stay.")


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


def test_one_of_many_that_fails_by_chance_is_no_failure():
    """Twenty members that gain just what is claimed: judged singly, in two studies of five one would seem not to."""
    names = tuple(f"member_{place}" for place in range(20))
    many = claim(population=names, tolerance=0.0)
    draws = np.random.default_rng(3).normal(5.0, 1.0, (200, 20, 5)).tolist()
    studies = [[pair(*seeds, name=name) for name, seeds in zip(names, study, strict=True)] for study in draws]
    words = [judge(many, study).word for study in studies]
    assert words.count("direction only") < 0.05 * len(words)
    single = claim(tolerance=0.0)
    assert sum(any(judge(single, [one]).word == "direction only" for one in study) for study in studies) > 0.25 * len(studies)


@pytest.mark.parametrize(("aggregate", "seeds"), [("max", 3), ("max", 5), ("max", 10), ("each", 3), ("mean", 3)])
def test_nothing_is_reproduced_where_there_is_no_effect(monkeypatch, aggregate, seeds):
    """In less than 5 % of 2,000 studies without an effect, with baselines as noisy as what is compared with them."""
    monkeypatch.setattr(verdicts, "_to_detect", lambda *_: "")  # takes most of the time, and decides nothing
    names = ("one", "two", "three", "four")
    gain = claim(aggregate=aggregate, population=names, size=None, tolerance=0.0, unit="unstated")
    random = np.random.default_rng(7)
    shared = random.normal(0.5, 0.02, (2000, 1, 4, seeds))
    draws = (shared + random.normal(0.0, 0.01, (2000, 2, 4, seeds))).tolist()
    studies = ([Pair(*arms) for arms in zip(names, *study, strict=True)] for study in draws)
    words = [judge(gain, study).word for study in studies]
    assert words.count("reproduced") / len(words) < 0.05


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "value"}, "does not fit direction value"),
        ({"comparison": "a"}, "does not fit direction greater"),
        ({"subject": "paper"}, "cannot judge a claim of the paper"),
        ({"direction": "equal"}, "equal has no size"),
        ({"direction": "greater", "size": None, "aggregate": "best"}, "aggregate"),
        ({"size": "five"}, "size: .*valid number"),
        ({"population": "one,,two"}, "population"),
        ({"population": "one,two,one"}, "stands twice in the population"),
        ({"comparison": "a - one/a"}, "is compared with itself"),
        ({"size": "-5"}, "size above 0"),
        ({"size": "nan"}, "size: .*finite"),
        ({"tolerance": "inf"}, "tolerance: .*finite"),
        ({"direction": "value", "comparison": "a", "unit": "relative"}, "accuracy in percent"),
        ({"direction": "value", "comparison": "a", "size": "101"}, "accuracy in percent"),
    ],
)
def test_a_wrong_row_is_refused_by_line_and_field(tmp_path: Path, changes, message):
    row = CLAIM.model_dump(mode="json") | {"population": "one"} | {name: "" if value is None else value for name, value in changes.items()}
    path = tmp_path / "claims.tsv"
    path.write_text("\t".join(row) + "\n" + "\t".join(str(value) for value in row.values()) + "\n")
    with pytest.raises(InputError, match=f"claims.tsv, line 2: .*{message}"):
        load_claims(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:-2], "line 3: not [0-9]+ cells"),
        (lambda line: line + b"\tmore", "line 3: not [0-9]+ cells"),
        (lambda line: line.replace(b"better", b"b\xe9tter"), "claims.tsv: not a table in UTF-8"),
        (lambda line: line.replace(b"greater", b"grater"), "line 3: direction"),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path: Path, change, message):
    row = CLAIM.model_dump(mode="json") | {"population": "one"}
    lines = ["\t".join(row).encode(), b"", change("\t".join(str(value) for value in row.values()).encode())]
    (tmp_path / "claims.tsv").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=message):
        load_claims(tmp_path / "claims.tsv")


def test_an_id_stands_once(tmp_path: Path):
    row = CLAIM.model_dump(mode="json") | {"population": "one"}
    line = "\t".join(str(value) for value in row.values())
    (tmp_path / "claims.tsv").write_text("\n".join(["\t".join(row), line, line]))
    with pytest.raises(InputError, match="line 3: id gain occurs twice"):
        load_claims(tmp_path / "claims.tsv")
