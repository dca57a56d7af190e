"""Accuracy over a whole set, exact under any batch size."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from m2mkd.data.stream import EvalBatch


@dataclass(frozen=True)
class Accuracy:
    """Measured on ``count`` images."""

    count: int
    loss: float
    """Mean cross-entropy in nats."""
    top1: float
    """Share of images whose label has the largest logit, 0 to 1."""
    top5: float
    """Share of images whose label is among the five largest logits (all of them, where there are fewer than five)."""
    correct: Tensor
    """Whether each image is correct at top-1, bool (count,), in the set's order."""

    def summary(self) -> dict[str, float]:
        """Everything but the single images."""
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss, "count": self.count}


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
        From images (B, 3, H, W) to logits (B, C).
    batches
        The set, in order, none dropped.
    device
        Where ``predict`` computes.
    columns
        Indices of the logits to keep, int64; none: all of them.
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
) -> list[Accuracy]:
    """Measure several networks in one pass over ``batches``, each of which all of them see one after the other; as `measure` otherwise."""
    losses: list[list[Tensor]] = [[] for _ in predictors]
    correct1: list[list[Tensor]] = [[] for _ in predictors]
    correct5: list[list[Tensor]] = [[] for _ in predictors]
    for batch in batches:
        images = batch.images.to(device)
        for place, predict in enumerate(predictors):
            logits, labels = predict(images).double().cpu(), batch.labels
            if columns is not None and label_map is not None:
                labels = label_map[labels]
                logits, labels = logits[labels >= 0][:, columns], labels[labels >= 0]
            losses[place].append(F.cross_entropy(logits, labels, reduction="none"))
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            correct1[place].append(ranked[:, 0])
            correct5[place].append(ranked.any(dim=1))
    return [_accuracy(*(torch.cat(parts) for parts in found)) for found in zip(losses, correct1, correct5, strict=True)]


def _accuracy(losses: Tensor, correct1: Tensor, correct5: Tensor) -> Accuracy:
    return Accuracy(
        count=len(correct1),
        loss=losses.mean().item(),
        top1=correct1.double().mean().item(),
        top5=correct5.double().mean().item(),
        correct=correct1,
    )
