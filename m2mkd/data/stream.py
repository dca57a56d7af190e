"""Stream of images that a run trains on, and the pass over a split that measures it.

All randomness depends on (data set, protocol, seed), the epoch, the image and its repeat; never on experiment, variant, module,
workers or ranks. Variants are therefore paired: they see the same images, augmented and mixed in the same way.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from m2mkd.config.recipe import Recipe
from m2mkd.data.draws import Draw, Order, mirrored_part
from m2mkd.data.epochs import EpochStream
from m2mkd.data.images import evaluated
from m2mkd.data.loading import refused_in_one_line
from m2mkd.data.pack import Split
from m2mkd.data.transforms import TrainTransform, normalised
from m2mkd.seeds import derive_seed, forked_rng
from m2mkd.signals import end_with_parent


class Batch(NamedTuple):
    """Training batch of B images."""

    images: Tensor
    """float32, (B, 3, S, S), augmented, normalised and mixed."""
    targets: Tensor
    """float32, (B, C), smoothed and mixed; each row sums to one."""
    labels: Tensor
    """int64, (B,), before mixing."""
    ids: Tensor
    """int64, (B,), index of each image in its split."""

    def to(self, device: torch.device) -> "Batch":
        """Batch with images and targets on a device."""
        return self._replace(images=self.images.to(device), targets=self.targets.to(device))

    def parts(self, count: int) -> Iterator["Batch"]:
        """Parts for the accumulation of gradients, divided as a batch is among ranks (`mirrored_part`)."""
        for number in range(count):
            chosen = torch.from_numpy(mirrored_part(len(self.ids), number, count))
            yield self if count == 1 else Batch(*(field[chosen.to(field.device)] for field in self))


class EvalBatch(NamedTuple):
    """Batch of at most B images to measure on."""

    images: Tensor
    """float32, (B, 3, S, S), normalised."""
    labels: Tensor
    """int64, (B,)."""
    ids: Tensor
    """int64, (B,), index of each image in its split."""


class TrainStream(EpochStream["_Augmented", Batch]):
    """Training batches, epoch by epoch.

    The global batch of a step is the same for any number of ranks. Each holds a block from its front and the mirror image of that block
    from its back (`mirrored_part`), so that the partner of every image in mixup and CutMix, which is its mirror image in the global
    batch, is on the same rank: no image is augmented twice, and none has to be sent.

    Parameters
    ----------
    split
        Source of the images; its image size is the network's.
    indices
        Indices of the images to use, (N,).
    num_classes
        Number of classes C of the targets.
    recipe
        Determines the global batch size and the augmentation.
    names
        (data set, protocol, replicate), from which all randomness is derived.
    workers
        Processes that prepare batches; 0: the calling process. The batches are the same.
    device
        Device of the batches. They go to a CUDA device as bytes from pinned memory, and are normalised, erased and mixed there.
    rank, ranks
        Part of every global batch that is made here, and the number of parts.

    Raises
    ------
    InputError
        If there are fewer images than a batch holds, or a batch cannot be divided among the ranks.
    """

    def __init__(
        self,
        split: Split,
        indices: ArrayLike,
        num_classes: int,
        recipe: Recipe,
        names: tuple[str | int, ...],
        workers: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        ranks: int = 1,
    ):
        part = mirrored_part(recipe.batch_size, rank, ranks)
        batches = _Batches(split, num_classes, recipe, names)
        order = Order(indices, recipe.batch_size, names, part, recipe.augmentation.repeats)
        super().__init__(batches, batches.finished, order, workers, device)


def eval_batches(split: Split, image_size: int, batch_size: int, rank: int = 0, ranks: int = 1, workers: int = 0) -> Iterator[EvalBatch]:
    """All images of a split in order, without dropping any; each of several ranks has every ``ranks``-th batch.

    Every image is in one batch of one rank, and the batches of all ranks are those of a single rank: results per batch are the same to
    the bit, and ``ids`` give their places. A rank may have no batch, so counts must be summed, not averaged.

    Parameters
    ----------
    split
        Split to measure on. Images that were packed with the geometry of evaluation are only normalised.
    image_size
        Side of the network's input in pixels.
    batch_size
        Images per batch; the last batch may have fewer.
    rank, ranks
        Rank whose batches are made here, and the number of ranks.
    workers
        Additional processes that decode and resize; not used if images are only normalised, which is less work than passing
        them.
    """
    starts = range(rank * batch_size, len(split), ranks * batch_size)
    loaded = _EvalBatches(split, image_size, batch_size)
    generator = torch.Generator().manual_seed(0)  # otherwise the loader would draw from the global one
    processes = 0 if split.final else workers
    loader = DataLoader(loaded, sampler=starts, batch_size=None, num_workers=processes, worker_init_fn=end_with_parent, generator=generator)
    return (EvalBatch(normalised(images), labels, ids) for images, labels, ids in refused_in_one_line(iter(loader)))


class _EvalBatches(Dataset[EvalBatch]):
    """Makes the batch that begins at a given image, up to normalisation: bytes (B, S, S, 3)."""

    def __init__(self, split: Split, image_size: int, batch_size: int):
        self._split, self._image_size, self._batch_size = split, image_size, batch_size

    def __getitem__(self, start: int) -> EvalBatch:
        here = slice(start, start + self._batch_size)
        images = self._split.images[here]
        if not self._split.final:
            images = [np.asarray(evaluated(Image.fromarray(image), self._image_size)) for image in images]
        labels = torch.from_numpy(np.array(self._split.labels[here]))
        return EvalBatch(torch.from_numpy(np.array(images)), labels, torch.arange(start, start + len(labels)))


class _Batches(Dataset["_Augmented"]):
    """Makes the batch of a draw: image by image in worker processes, then all at once in the calling process."""

    def __init__(self, split: Split, num_classes: int, recipe: Recipe, names: tuple[str | int, ...]):
        mixing = recipe.augmentation
        self._split = split
        self._names = names
        self._transform = TrainTransform(split.side, mixing)
        self._num_classes = num_classes
        self._smoothing = mixing.label_smoothing
        self._mix = None
        if mixing.mixup or mixing.cutmix:
            self._mix = Mixup(
                mixing.mixup,
                mixing.cutmix,
                prob=1.0,
                switch_prob=mixing.cutmix_share,
                mode="batch",
                label_smoothing=mixing.label_smoothing,
                num_classes=num_classes,
            )

    def __getitem__(self, draw: Draw) -> "_Augmented":
        seeds = [
            derive_seed(*self._names, "augment", draw.epoch, int(sample), int(repeat))
            for sample, repeat in zip(draw.samples, draw.repeats, strict=True)
        ]
        _announce(self._split.images, draw.samples)
        images = torch.from_numpy(self._transform.augmented(self._split.images[draw.samples], seeds))
        labels, ids = torch.from_numpy(self._split.labels[draw.samples]), torch.from_numpy(draw.samples)
        return _Augmented(images, labels, ids, draw.epoch, draw.step, seeds)

    def finished(self, batch: "_Augmented", device: torch.device) -> Batch:
        """Normalise, erase and mix a batch on its device."""
        images = self._transform.finished(batch.images.to(device, non_blocking=True), batch.seeds)
        if self._mix is None:
            targets = mixup_target(batch.labels, self._num_classes, smoothing=self._smoothing)
        else:
            with forked_rng(*self._names, "mixup", batch.epoch, batch.step):
                images, targets = self._mix(images, batch.labels)
        return Batch(images, targets.to(device, non_blocking=True), batch.labels, batch.ids)


def _announce(images: Any, indices: NDArray[np.int64]) -> None:
    """Ask the system to read images of a memory map: sequential access to those still on the disk takes a hundred times as long."""
    if isinstance(images, np.memmap) and images.filename is not None and hasattr(os, "posix_fadvise"):
        with Path(images.filename).open("rb") as file:
            for index in indices.tolist():
                with suppress(OSError):  # a file system may take no advice
                    os.posix_fadvise(file.fileno(), images.offset + index * images.strides[0], images.strides[0], os.POSIX_FADV_WILLNEED)


class _Augmented(NamedTuple):
    """Batch on its way from the loading process: bytes, a quarter of the final size."""

    images: Tensor
    """uint8, (B, S, S, 3)."""
    labels: Tensor
    ids: Tensor
    epoch: int
    step: int
    seeds: list[int]
    """Seed of each image."""
