"""Calibration and per-class accuracy, as pure functions of what a network predicted."""

from collections.abc import Sequence

import torch
from torch import Tensor

CALIBRATION_BINS = 15
"""Bins of the expected calibration error, as Guo et al. (2017) have it."""


def calibration_error(confidences: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS, *, equal_mass: bool = False) -> float:
    """Expected calibration error: how far confidence and accuracy are apart in a bin of confidences, weighed by the images in it.

    Parameters
    ----------
    confidences
        Probability of the predicted class of each image, (N,), 0 to 1.
    correct
        Whether each prediction is right, bool (N,).
    bins
        Number of bins.
    equal_mass
        Whether the bins hold equally many images, up to one, in the order of their confidences; where confidences are equal the order is
        that of the images. By default the bins are equally wide: bin k of K holds confidences in ((k - 1) / K, k / K], the first 0 too.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ValueError
        If there is no image, or a confidence is no probability.
    """
    confidences, correct = confidences.double(), correct.double()
    if not len(confidences) or not bool(((confidences >= 0) & (confidences <= 1)).all()):
        raise ValueError("calibration needs probabilities of at least one image")
    if equal_mass:
        order = confidences.argsort(stable=True)
        confidences, correct = confidences[order], correct[order]
        bin_of = torch.arange(len(order)) * bins // len(order)
    else:
        edges = torch.arange(1, bins, dtype=torch.float64) / bins
        bin_of = torch.bucketize(confidences, edges)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, correct - confidences)
    return (gaps.abs().sum() / len(confidences)).item()


def class_accuracies(correct: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Share of correct predictions among the images of each class.

    Parameters
    ----------
    correct
        Whether each prediction is right, bool (N,).
    labels
        Index of each image's class in ``classes``, int64 (N,).
    classes
        Names of the classes.

    Returns
    -------
    dict
        By name, 0 to 1, in the order of ``classes``; a class without images is left out.
    """
    images = torch.bincount(labels, minlength=len(classes)).tolist()
    right = torch.bincount(labels[correct], minlength=len(classes)).tolist()
    return {name: hits / count for name, hits, count in zip(classes, right, images, strict=True) if count}


def confusion(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, list]:
    """How many images of each class are taken for each class.

    Parameters
    ----------
    predicted, labels
        Indices of the predicted and of the true class in ``classes``, int64 (N,).
    classes
        Names of the classes.

    Returns
    -------
    dict
        ``classes``, and ``images``: a triple of label, prediction and number of images for each pair that occurs, in order.
    """
    # Scikit-learn's confusion_matrix is no part of the core installation, on which this is computed, and is dense.
    pairs, counts = torch.unique(torch.stack([labels, predicted], dim=1), dim=0, return_counts=True)
    return {"classes": list(classes), "images": [[*pair, count] for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)]}
