"""Share of a batch that one rank computes: its micro-batches, and a loss whose gradient is averaged over the ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakTensorKeyDictionary

from m2mkd.data.detection_stream import DetectionBatch
from m2mkd.data.stream import Batch
from m2mkd.distill.losses import Loss
from m2mkd.training.task import Task

divided: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Micro-batches by their batch and their number, for as long as the batch exists."""


class _Loss(nn.Module):
    """Forward pass of a module with the trained parameters that returns a task's loss."""

    def __init__(self, task: Task):
        super().__init__()
        self.trained = task.trained
        self._compute = task.loss

    def forward(self, images: Any, targets: Any, noise: torch.Generator) -> Tensor | Loss:
        return self._compute(images, targets, noise)


def micro_batches(batch: Batch | DetectionBatch, count: int) -> Sequence[Batch | DetectionBatch]:
    """Split a batch into ``count`` micro-batches, the same tensors for every training that gets it, so that shared parts recognise them."""
    if count == 1:
        return [batch]
    known = divided.setdefault(batch.ids, {})
    if count not in known:
        known[count] = list(batch.parts(count))
    return known[count]


def shared_loss(task: Task) -> DistributedDataParallel:
    """Loss of this rank's share, whose gradient is averaged over the ranks."""
    # Searching for unused parameters also fixes the order in which gradients are sent, so that a resumed training sums in the same order.
    return DistributedDataParallel(_Loss(task), find_unused_parameters=True, gradient_as_bucket_view=True)
