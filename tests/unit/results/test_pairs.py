"""Sides of a comparison as verdicts take them."""

import pytest

from m2mkd.results.judge.arms import Arm, Comparison, Seed, paired, pairs_of


def test_of_four_sides_the_difference_of_differences_is_judged():
    arms = tuple(
        Arm("e", "a", "corrected", (Seed(4, "evaluate/0", one, None, None), Seed(2, "evaluate/1", other, None, None)), 100, 0.1)
        for one, other in ((0.8, 0.9), (0.6, 0.5), (0.7, 0.7), (0.4, 0.6))
    )
    (pair,) = pairs_of([arms])
    assert [list(part) for part in (pair.treated, pair.control)] == [pytest.approx([0.4, 0.2]), pytest.approx([0.1, 0.3])]
    assert pair.seeds == (2, 4)


def arm(name: str, *seeds: int | None, imported: bool = False) -> Arm:
    found = tuple(Seed(seed, f"evaluate/{name}{seed}", 0.1 * (seed or 0), None, None) for seed in seeds)
    return Arm(name, "a", "corrected", found, 100, 0.1, imported)


def seeds_of(comparisons: tuple[Comparison, ...]) -> list[list[list[int | None]]]:
    return [[[seed.seed for seed in arm.seeds] for arm in arms] for arms in comparisons]


def test_each_comparison_has_the_seeds_that_all_its_arms_have():
    comparisons = [(arm("a", 0, 1, 2, 3), arm("b", 3, 1, 2)), (arm("c", 0, 1), arm("d", 0, 1))]
    found, left_out = paired(comparisons, alike=False)
    assert seeds_of(found) == [[[1, 2, 3], [3, 1, 2]], [[0, 1], [0, 1]]] and left_out == 1
    assert [pair.treated for pair in pairs_of(found)] == [pair.control for pair in pairs_of(found)]


def test_a_mean_over_experiments_is_over_the_seeds_that_all_have():
    comparisons = [(arm("a", 0, 1, 2, 3), arm("b", 1, 2, 3)), (arm("c", 0, 1, 2), arm("d", 0, 1, 2))]
    found, left_out = paired(comparisons, alike=True)
    assert seeds_of(found) == [[[1, 2], [1, 2]], [[1, 2], [1, 2]]] and left_out == 2


def test_no_seed_in_common_leaves_none():
    found, left_out = paired([(arm("a", 0, 1), arm("b", 2, 3)), (arm("c", 0), arm("d", 0))], alike=True)
    assert seeds_of(found) == [[[], []], [[], []]] and left_out == 4


def test_weights_that_all_seeds_share_are_left_as_they_are():
    imported, shared = (arm("a", 0, imported=True), arm("b", 0, 1, 2)), (arm("teacher", None), arm("b", 0, 1))
    assert paired([imported, shared], alike=False) == ((imported, shared), 0)
    (pair,) = pairs_of([(*imported, arm("c", 0, 1, 2), arm("d", 0, 1, 2))])
    assert pair.is_unpaired
