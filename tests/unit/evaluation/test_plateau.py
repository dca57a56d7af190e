"""When a training counts as staying at chance."""

import pytest
from scipy.stats import binom

from m2mkd.evaluation.plateau import Plateau, at_chance, plateau
from m2mkd.training.guards import ChanceWatch


@pytest.mark.parametrize(("top1", "expected"), [(0.05, True), (0.10, True), (0.13, True), (0.15, False), (0.9, False)])
def test_chance_is_what_guessing_reaches_on_so_many_images(top1, expected):
    assert at_chance(top1, 359, 10) == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.1, 0.1, 0.9], None),
        ([0.1, 0.1, 0.1, 0.9], Plateau(1, 3)),
        ([0.5, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1], Plateau(2, 5)),
        ([0.9, 0.1, 0.1, 0.1], Plateau(2, 4)),
        ([], None),
    ],
)
def test_a_plateau_is_the_longest_run_of_several_measurements(curve, expected):
    assert plateau(enumerate(curve, 1), 359, 10) == expected


def test_a_training_that_stays_is_told_once_and_again_after_it_has_left():
    watch = ChanceWatch()
    told = [watch.stays_since(epoch, top1, 359, 10) for epoch, top1 in enumerate([0.1] * 5 + [0.5] + [0.1] * 4, 1)]
    assert told == [None, None, 1, None, None, None, None, None, 7, None]


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (20, 3), (31, 31), (359, 10), (2000, 100)])
def test_the_limit_is_the_binomial_quantile(images, classes):
    limit = binom.ppf(0.99, images, 1 / classes)
    assert [at_chance(hits / images, images, classes) for hits in range(images + 1)] == [hits <= limit for hits in range(images + 1)]
