"""Accuracy over a whole set, exact under any batch size."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn import functional as F

from m2mkd.data.stream import EvalBatch
from m2mkd.errors import InputError
from m2mkd.evaluation.calibration import calibration_error
from m2mkd.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Accuracy:
    """Accuracy measured on ``count`` images."""

    count: int
    loss: float
    """Mean cross-entropy in nats."""
    top1: float
    """Share of images whose label has the largest logit, 0 to 1."""
    top5: float
    """Share of images whose label is among the five largest logits; among all logits if there are fewer than five."""
    correct: Tensor
    """True for each image that is correct at top-1, bool (count,), in the set's order."""
    confidence: Tensor
    """Probability of the predicted class of each image, (count,)."""
    labels: Tensor
    """Label of each image, int64 (count,)."""
    predicted: Tensor
    """Predicted class of each image, the one with the largest logit, int64 (count,)."""

    def summary(self) -> dict[str, float]:
        """All measures except those of single images; ``ece`` is the expected calibration error.

        Raises
        ------
        InputError
            If the logits of an image are not finite.
        """
        if not math.isfinite(self.loss):
            fix = "train again with a lower lr, or import finite weights"
            raise InputError(f"the loss on {self.count} images is {self.loss}: the measured weights have diverged; {fix}")
        calibration = {
            "ece": calibration_error(self.confidence, self.correct),
            "ece_equal_mass": calibration_error(self.confidence, self.correct, equal_mass=True),
        }
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss, "count": self.count, **calibration}


def measure(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[EvalBatch],
    device: torch.device,
    columns: Tensor | None = None,
    label_map: Tensor | None = None,
) -> Accuracy:
    """Measure predictions on every image of ``batches``.

    Parameters
    ----------
    predict
        Maps images (B, 3, H, W) to logits (B, C).
    batches
        The set, in order, with no image dropped.
    device
        Device on which ``predict`` computes.
    columns
        Indices of the logits to keep, int64; None keeps all.
    label_map
        Index among ``columns`` of each label of the set, int64; -1 leaves the image out.
    """
    return measure_together([predict], batches, device, columns, label_map)[0]


@torch.no_grad()
def measure_together(
    predictors: Sequence[Callable[[Tensor], Tensor]],
    batches: Iterable[EvalBatch],
    device: torch.device,
    columns: Tensor | None = None,
    label_map: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> list[Accuracy]:
    """Measure several networks in one pass over ``batches``; every network sees each batch. Otherwise as `measure`.

    With several ``ranks``, each rank measures its own batches, and all ranks get the same result as a single rank would, to the bit.
    """
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in predictors]
    for batch in batches:
        images = batch.images.to(device)
        for index, predict in enumerate(predictors):
            logits, labels = predict(images).double().cpu(), batch.labels
            if columns is not None and label_map is not None:
                labels = label_map[labels]
                logits, labels = logits[labels >= 0][:, columns], labels[labels >= 0]
            loss = F.cross_entropy(logits, labels, reduction="none")
            largest = logits.topk(min(5, logits.shape[1]), dim=1).indices
            ranked = largest == labels[:, None]
            found[index].append((loss, ranked[:, 0], ranked.any(dim=1), logits.softmax(dim=1).amax(dim=1), labels, largest[:, 0]))
    return [_accuracy(*(torch.cat(parts) for parts in zip(*_in_order(batches, ranks), strict=True))) for batches in found]


def _in_order(batches: list[tuple[Tensor, ...]], ranks: Ranks) -> list[tuple[Tensor, ...]]:
    """Batches of all ranks, interleaved in the original order."""
    rounds = zip_longest(*ranks.all_gather(batches))
    return [batch for one_round in rounds for batch in one_round if batch is not None]


def _accuracy(losses: Tensor, correct1: Tensor, correct5: Tensor, confidence: Tensor, labels: Tensor, predicted: Tensor) -> Accuracy:
    return Accuracy(
        count=len(correct1),
        loss=losses.mean().item(),
        top1=correct1.double().mean().item(),
        top5=correct5.double().mean().item(),
        correct=correct1,
        confidence=confidence,
        labels=labels,
        predicted=predicted,
    )
