"""Verdicts at their boundaries, and how often they are wrong where nothing is true."""

from pathlib import Path

import numpy as np
import pytest

from m2mkd.config.claims import Claim, load_claims
from m2mkd.errors import InputError
from m2mkd.results.verdicts import Pair, judge

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


@pytest.mark.parametrize("aggregate", ["each", "mean", "max"])
@pytest.mark.parametrize("seeds", [3, 10])
def test_nothing_is_reproduced_where_there_is_no_effect(aggregate, seeds):
    """At most 5 % of studies without an effect."""
    names = ("one", "two", "three", "four")
    gain = claim(aggregate=aggregate, population=names, size=None, tolerance=0.0, unit="unstated")
    draws = np.random.default_rng(7).normal(0.0, 1.0, (500, 4, seeds)).tolist()
    words = [judge(gain, [pair(*row, name=name) for name, row in zip(names, study, strict=True)]).word for study in draws]
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
    ],
)
def test_a_wrong_row_is_refused_by_line_and_field(tmp_path: Path, changes, message):
    row = CLAIM.model_dump(mode="json") | {"population": "one"} | {name: "" if value is None else value for name, value in changes.items()}
    path = tmp_path / "claims.tsv"
    path.write_text("\t".join(row) + "\n" + "\t".join(str(value) for value in row.values()) + "\n")
    with pytest.raises(InputError, match=f"claims.tsv, line 2: .*{message}"):
        load_claims(path)


def test_an_id_stands_once(tmp_path: Path):
    row = CLAIM.model_dump(mode="json") | {"population": "one"}
    line = "\t".join(str(value) for value in row.values())
    (tmp_path / "claims.tsv").write_text("\n".join(["\t".join(row), line, line]))
    with pytest.raises(InputError, match="line 3: id gain occurs twice"):
        load_claims(tmp_path / "claims.tsv")
