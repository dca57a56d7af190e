"""Calibration and per-class accuracy, as pure functions of a network's predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor

CALIBRATION_BINS = 15
"""Bins of the expected calibration error, as in Guo et al. (2017)."""


def calibration_error(confidences: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS, *, equal_mass: bool = False) -> float:
    """Expected calibration error: gap between confidence and accuracy in each bin of confidences, weighted by its number of images.

    Parameters
    ----------
    confidences
        Probability of the predicted class of each image, (N,), 0 to 1.
    correct
        True for each correct prediction, bool (N,).
    bins
        Number of bins.
    equal_mass
        True: the bins hold equally many images, up to one, sorted by confidence; ties keep the order of the images. False: the bins are
        equally wide; bin k of K holds confidences in ((k - 1) / K, k / K], and the first also holds 0.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ValueError
        If there are no images, or a confidence is not a probability.
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
        True for each correct prediction, bool (N,).
    labels
        Index of each image's class in ``classes``, int64 (N,).
    classes
        Names of the classes.

    Returns
    -------
    dict
        Accuracies by class name, 0 to 1, in the order of ``classes``; a class without images is left out.
    """
    images = torch.bincount(labels, minlength=len(classes)).tolist()
    right = torch.bincount(labels[correct], minlength=len(classes)).tolist()
    return {name: hits / count for name, hits, count in zip(classes, right, images, strict=True) if count}


def confusion(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, list]:
    """Number of images of each true class predicted as each class.

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
    # Scikit-learn's confusion_matrix is dense, and not part of the core installation that computes this.
    pairs, counts = torch.unique(torch.stack([labels, predicted], dim=1), dim=0, return_counts=True)
    return {"classes": list(classes), "images": [[*pair, count] for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)]}
