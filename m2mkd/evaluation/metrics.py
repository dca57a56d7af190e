"""Metrics of classification, pure functions of kept logits: ours, and those that other packages register."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from m2mkd.errors import InputError
from m2mkd.evaluation.calibration import calibration_error
from m2mkd.plugins import find_plugin

METRIC_GROUP = "m2mkd.metrics"
"""Group of entry points that metrics are registered in."""
MetricFunction = Callable[[Tensor, Tensor], float]
"""Function of logits (N, K), float64, and labels (N,), int64, that gives a number and changes neither."""


def top1_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose label has the largest logit."""
    return _among_largest(logits, labels, 1)


def top5_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose label is among the five largest logits, or among all if there are fewer."""
    return _among_largest(logits, labels, 5)


def _among_largest(logits: Tensor, labels: Tensor, count: int) -> float:
    # Of five as in the evaluation, so that ties among equal logits fall alike.
    largest = logits.topk(min(5, logits.shape[1]), dim=1).indices[:, :count]
    return (largest == labels[:, None]).any(dim=1).double().mean().item()


def loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats."""
    return F.cross_entropy(logits, labels, reduction="none").mean().item()


def ece(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error over bins of equal width; see `calibration_error`."""
    return _calibration(logits, labels, equal_mass=False)


def ece_equal_mass(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error over bins of equally many images."""
    return _calibration(logits, labels, equal_mass=True)


def _calibration(logits: Tensor, labels: Tensor, *, equal_mass: bool) -> float:
    predicted = logits.topk(min(5, logits.shape[1]), dim=1).indices[:, 0]
    return calibration_error(logits.softmax(dim=1).amax(dim=1), predicted == labels, equal_mass=equal_mass)


def metric_named(name: str) -> MetricFunction:
    """The registered metric of that name.

    Raises
    ------
    InputError
        If there is none, or its plug-in cannot be loaded or is not a function.
    """
    plugin = find_plugin(METRIC_GROUP, name)
    found = plugin.load()
    if not callable(found) or isinstance(found, type):
        wanted = "is not a function of logits and labels"
        raise InputError(f"{plugin}: {plugin.value} {wanted}; repair or uninstall {plugin.distribution}")
    metric: MetricFunction = found
    return metric


def value_of(name: str, logits: Tensor, labels: Tensor) -> float:
    """Value of a registered metric.

    Parameters
    ----------
    name
        Name of the metric.
    logits, labels
        Logits (N, K), float64, and labels (N,), int64; the metric gets copies.

    Raises
    ------
    InputError
        As `metric_named`, or if the metric fails or gives no finite number.
    """
    metric, plugin = metric_named(name), find_plugin(METRIC_GROUP, name)
    try:
        value = float(metric(logits.clone(), labels.clone()))
    except Exception as error:  # a stranger's function may raise anything
        raise InputError(f"{plugin}: fails ({type(error).__name__}: {error}); repair or uninstall {plugin.distribution}") from error
    if not math.isfinite(value):
        raise InputError(f"{plugin}: gives {value}, but a finite number is needed; repair or uninstall {plugin.distribution}")
    return value
