"""Sides of a comparison as verdicts take them."""

from types import SimpleNamespace

import pytest

from m2mkd.results.judge.arms import pairs_of


def test_of_four_sides_the_difference_of_differences_is_judged():
    arms = tuple(
        SimpleNamespace(experiment="e", accuracies=values, images=100) for values in ((0.9, 0.8), (0.5, 0.6), (0.7, 0.7), (0.6, 0.4))
    )
    (pair,) = pairs_of([arms])
    assert [list(part) for part in (pair.treated, pair.control)] == [pytest.approx([0.4, 0.2]), pytest.approx([0.1, 0.3])]
