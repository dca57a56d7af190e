"""Calibration error and per-class accuracy against values worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from m2mkd.evaluation.calibration import calibration_error, class_accuracies, confusion


def error(pairs, *arguments, **options):
    confidences, correct = zip(*pairs, strict=True)
    return calibration_error(torch.tensor(confidences, dtype=torch.float64), torch.tensor(correct).bool(), *arguments, **options)


def test_equally_wide_bins_by_hand():
    # Two bins: (0.2, 0.4) with one of two right, gap 0.2; (0.7, 0.9, 0.8) with one of three right, gap 0.8 - 1/3.
    pairs = [(0.2, 1), (0.7, 0), (0.4, 0), (0.9, 1), (0.8, 0)]
    assert error(pairs, 2) == pytest.approx(2 / 5 * 0.2 + 3 / 5 * (0.8 - 1 / 3), abs=1e-12)


def test_bins_of_equal_mass_by_hand():
    # Sorted: 0.5 right, 0.6 wrong | 0.7 right, 0.9 wrong.
    pairs = [(0.9, 0), (0.5, 1), (0.7, 1), (0.6, 0)]
    assert error(pairs, 2, equal_mass=True) == pytest.approx(0.5 * abs(0.55 - 0.5) + 0.5 * abs(0.8 - 0.5), abs=1e-12)


def test_the_upper_edge_belongs_to_a_bin():
    # Were 0.5 in the upper bin, the two would cancel to |0.5 + 0.6 - 1| / 2.
    assert error([(0.5, 0), (0.6, 1)], 2) == pytest.approx((0.5 + 0.4) / 2, abs=1e-12)
    assert error([(0.0, 0), (1.0, 1)], 15) == 0


@pytest.mark.parametrize("equal_mass", [False, True])
def test_sure_and_wrong_is_the_worst(equal_mass):
    assert error([(1.0, 0)] * 20, equal_mass=equal_mass) == 1
    assert error([(1.0, 1)] * 20, equal_mass=equal_mass) == 0


def test_bins_of_equal_mass_differ_by_at_most_one():
    # One bin an image: each gap counts by itself.
    assert error([(0.6, 1), (0.7, 1), (0.8, 0)], 3, equal_mass=True) == pytest.approx((0.4 + 0.3 + 0.8) / 3, abs=1e-12)
    # More bins than images leaves bins empty.
    assert error([(0.6, 1), (0.7, 0)], 15, equal_mass=True) == pytest.approx((0.4 + 0.7) / 2, abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 15), st.booleans())
@settings(deadline=None)
def test_it_is_what_a_loop_over_the_bins_gives(pairs, bins, equal_mass):
    confidences, correct = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    if equal_mass:
        order = np.argsort(confidences, kind="stable")
        members = [order[np.arange(len(order)) * bins // len(order) == k] for k in range(bins)]
    else:
        members = [np.flatnonzero((confidences > k / bins) & (confidences <= (k + 1) / bins)) for k in range(bins)]
        members[0] = np.append(members[0], np.flatnonzero(confidences == 0))
    expected = sum(len(one) / len(pairs) * abs(correct[one].mean() - confidences[one].mean()) for one in members if len(one))
    assert error(pairs, bins, equal_mass=equal_mass) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("pairs", [[(1.2, 1)], [(-0.1, 0)], [(float("nan"), 0)]])
def test_what_is_no_probability_is_refused(pairs):
    with pytest.raises(ValueError, match="probabilities"):
        error(pairs)


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        calibration_error(torch.empty(0), torch.empty(0, dtype=torch.bool))


def test_accuracy_of_each_class():
    correct, labels = torch.tensor([1, 0, 1, 1, 0]).bool(), torch.tensor([0, 0, 3, 0, 1])
    assert class_accuracies(correct, labels, ("a", "b", "c", "d")) == {"a": 2 / 3, "b": 0.0, "d": 1.0}


def test_confusion_is_that_of_scikit_learn():
    labels, predicted = torch.randint(0, 5, (2, 200), generator=torch.Generator().manual_seed(0))
    dense = np.zeros((6, 6), dtype=int)
    for label, prediction, images in confusion(predicted, labels, "abcdef")["images"]:
        dense[label, prediction] = images
    assert (dense == confusion_matrix(labels, predicted, labels=range(6))).all()


def test_confusion_counts_every_image_once():
    labels, predicted = torch.tensor([0, 0, 2, 0, 2]), torch.tensor([1, 0, 2, 1, 0])
    found = confusion(predicted, labels, ("a", "b", "c"))
    assert found == {"classes": ["a", "b", "c"], "images": [[0, 0, 1], [0, 1, 2], [2, 0, 1], [2, 2, 1]]}
