"""Loaders of torch, and other iterables of images and labels, as the training loop and the measurements see batches."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from timm.data.mixup import mixup_target

from m2mkd.data.stream import Batch, EvalBatch
from m2mkd.errors import InputError
from m2mkd.seeds import forked_rng


class Loader(Protocol):
    """Batches of images (B, 3, S, S), float32, and labels (B,), int64; one pass for each iteration."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


class LoaderStream:
    """Training batches of a loader.

    Python's, numpy's and torch's global generators are seeded for each batch, so that a shuffling loader without workers gives the same
    batches again where a training resumes.

    Parameters
    ----------
    loader
        Gives at least one batch.
    num_classes
        Number of classes C of the targets.
    smoothing
        Label smoothing.
    seed
        Seed of the generators.

    Raises
    ------
    InputError
        If the loader is empty.
    """

    def __init__(self, loader: Loader, num_classes: int, smoothing: float, seed: int) -> None:
        self.steps_per_epoch = len(loader)
        self._loader, self._num_classes, self._smoothing, self._seed = loader, num_classes, smoothing, seed
        if not self.steps_per_epoch:
            raise InputError("loader: has no batches; give more images, or a smaller batch")

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from ``start_step``; the earlier ones are made and dropped."""
        batches, seen = iter(self._loader), 0
        for step in range(self.steps_per_epoch):
            with forked_rng("loader", self._seed, epoch, step):
                images, labels = next(batches)
            ids = torch.arange(seen, seen + len(images))
            seen += len(images)
            if step >= start_step:
                yield Batch(images, mixup_target(labels, self._num_classes, smoothing=self._smoothing), labels, ids)


def as_measured(loader: Any) -> Iterator[EvalBatch]:
    """Batches of images and labels, in order, as they are measured; ``loader`` may be any iterable of them."""
    seen = 0
    for images, labels in loader:
        yield EvalBatch(images, torch.as_tensor(labels), torch.arange(seen, seen + len(images)))
        seen += len(images)
