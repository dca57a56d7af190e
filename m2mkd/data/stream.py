"""The stream of images that a run trains on, and the pass over a split that measures it.

Everything random depends on (data set, protocol, replicate) and on the epoch, the image and its repeat; never on the experiment, the
variant, the module or the number of workers. So variants are paired: they see the same images, augmented and mixed in the same way.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from m2mkd.config.recipe import Recipe
from m2mkd.config.seeds import derive_seed, forked_rng
from m2mkd.data.images import evaluated
from m2mkd.data.pack import Split
from m2mkd.data.transforms import TrainTransform, normalised
from m2mkd.errors import InputError


class Batch(NamedTuple):
    """A training batch of B images."""

    images: Tensor
    """float32, (B, 3, S, S), augmented, normalised and mixed."""
    targets: Tensor
    """float32, (B, C), smoothed and mixed; each row sums to one."""
    labels: Tensor
    """int64, (B,), before mixing."""
    ids: Tensor
    """int64, (B,), index of each image in its split."""


class EvalBatch(NamedTuple):
    """A batch of at most B images to measure on."""

    images: Tensor
    """float32, (B, 3, S, S), normalised."""
    labels: Tensor
    """int64, (B,)."""
    ids: Tensor
    """int64, (B,), index of each image in its split."""


class Draw(NamedTuple):
    """Which images one batch holds."""

    epoch: int
    step: int
    samples: NDArray[np.int64]
    """Index of each image in the split."""
    repeats: NDArray[np.int64]
    """Which view of the image it is, from 0."""


class TrainStream:
    """Training batches, epoch by epoch.

    Parameters
    ----------
    split
        Where the images come from; its image size is the network's.
    indices
        Which of them are used, (N,).
    num_classes
        Number of classes C of the targets.
    recipe
        Gives the global batch size and the augmentation.
    names
        (data set, protocol, replicate): what everything random is derived from.
    workers
        Processes that prepare batches; none: the calling one. The batches are the same.
    device
        Where the batches will go; for a CUDA device they lie in pinned memory.

    Raises
    ------
    InputError
        If there are fewer images than one batch holds.
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
    ):
        self._indices = np.asarray(indices, dtype=np.int64)
        self._batch_size = recipe.batch_size
        if len(self._indices) < self._batch_size:
            short = f"{len(self._indices)} training images are fewer than one batch of {self._batch_size}"
            raise InputError(f"{names[0]}: {short}; lower batch_size or raise train_share")
        self._batches = _Batches(split, num_classes, recipe, names)
        self._names = names
        self._repeats = recipe.augmentation.repeats
        self._workers = workers
        self._pinned = torch.device(device).type == "cuda"

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; what does not fill a batch is dropped."""
        return len(self._indices) // self._batch_size

    def draws(self, epoch: int) -> Iterator[Draw]:
        """Which images the batches of an epoch hold, with repeated augmentation (vmoe.md 4.1)."""
        order = np.random.default_rng(derive_seed(*self._names, "order", epoch)).permutation(self._indices)
        samples = np.repeat(order, self._repeats)[: len(order)]
        repeats = np.arange(len(order)) % self._repeats
        for step in range(self.steps_per_epoch):
            here = slice(step * self._batch_size, (step + 1) * self._batch_size)
            yield Draw(epoch, step, samples[here], repeats[here])

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from ``start_step`` on; the same whether or not those before were made."""
        loader = DataLoader(
            self._batches,
            sampler=list(self.draws(epoch))[start_step:],
            batch_size=None,
            num_workers=self._workers,
            pin_memory=self._pinned,
            generator=torch.Generator().manual_seed(0),  # else the loader would draw from the global one
        )
        return iter(loader)


def eval_batches(split: Split, image_size: int, batch_size: int) -> Iterator[EvalBatch]:
    """All images of a split in order, none dropped.

    Images that have the geometry of evaluation from their packing are only normalised.
    """
    for start in range(0, len(split), batch_size):
        images = split.images[start : start + batch_size]
        if not split.final:
            images = [np.asarray(evaluated(Image.fromarray(image), image_size)) for image in images]
        labels = torch.from_numpy(np.array(split.labels[start : start + batch_size]))
        yield EvalBatch(normalised(np.array(images)), labels, torch.arange(start, start + len(labels)))


class _Batches(Dataset[Batch]):
    """Makes the batch of a draw; all that worker processes need."""

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

    def __getitem__(self, draw: Draw) -> Batch:
        seeds = [
            derive_seed(*self._names, "augment", draw.epoch, int(sample), int(repeat))
            for sample, repeat in zip(draw.samples, draw.repeats, strict=True)
        ]
        images = self._transform(self._split.images[draw.samples], seeds)
        labels = torch.from_numpy(self._split.labels[draw.samples])
        if self._mix is None:
            targets = mixup_target(labels, self._num_classes, smoothing=self._smoothing)
        else:
            with forked_rng(*self._names, "mixup", draw.epoch, draw.step):
                images, targets = self._mix(images, labels)
        return Batch(images, targets, labels, torch.from_numpy(draw.samples.copy()))
