"""Image streams for training and measuring a detector.

All randomness depends on (data set, protocol, replicate), the epoch and the image; never on the number of workers or of ranks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from m2mkd.config.detection_input import DetectionInput
from m2mkd.data.detection_pack import DetectionSplit
from m2mkd.data.detection_transforms import augmented, shortest_edge_size
from m2mkd.data.draws import Draw, Order
from m2mkd.data.epochs import EpochStream, as_it_is
from m2mkd.data.loading import refused_in_one_line
from m2mkd.data.samples import resized_image
from m2mkd.data.segmentation import Polygons, Segmentation, bitmap
from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed
from m2mkd.signals import end_with_parent


@dataclass(frozen=True)
class Target:
    """Instances of one image, G of them, possibly none."""

    boxes: Tensor
    """float32, (G, 4): x0 y0 x1 y1 in pixels."""
    classes: Tensor
    """int64, (G,), from 0."""
    masks: Sequence[Polygons] | Tensor
    """Outlines of the instances; or bitmaps, bool (G, H, W), on the device of the boxes, if some instance has no outline."""
    seed: int = 0
    """Seed of the image's random draws in training: the anchors and regions of the loss."""

    def __len__(self) -> int:
        return len(self.classes)


class DetectionBatch(NamedTuple):
    """Training batch of B images: this rank's part of the global batch."""

    images: list[Tensor]
    """uint8, (3, H, W), red first, of B sizes, neither normalised nor padded."""
    targets: list[Target]
    ids: Tensor
    """int64, (B,), index of each image in its split."""

    def to(self, device: torch.device) -> "DetectionBatch":
        """Return the batch, which the stream has already moved to its device."""
        return self

    def parts(self, count: int) -> Iterator["DetectionBatch"]:
        """Parts for the accumulation of gradients; part m of M of rank r of R equals that of rank r M + m of R M."""
        for number in range(count):
            here = rank_block(len(self.images), number, count)
            yield DetectionBatch(self.images[here], self.targets[here], self.ids[here])


class DetectionEvalBatch(NamedTuple):
    """Batch of at most B images to measure on."""

    images: list[Tensor]
    """uint8, (3, H, W), red first, of B sizes, neither normalised nor padded."""
    sizes: list[tuple[int, int]]
    """Height and width in pixels of each annotated image, to which detections have to be scaled."""
    ids: Tensor
    """int64, (B,), index of each image in its split."""


class DetectionStream(EpochStream["_Loaded", DetectionBatch]):
    """Training batches, epoch by epoch; the global batch of a step is the same for any number of ranks, and each holds a block of it.

    Parameters
    ----------
    split
        Source of the images.
    indices
        Indices of the images to use, (N,); see `DetectionSplit.trainable`.
    batch_size
        Images of the global batch; an incomplete batch is dropped from an epoch.
    config
        Augmentation.
    names
        (data set, protocol, replicate), from which all randomness is derived.
    workers
        Processes that prepare batches; 0: the calling process. The batches are the same.
    device
        Device of images, boxes and classes.
    rank, ranks
        Part of every global batch that is made here, and the number of parts.
    updates
        Number of batches over all epochs; the last epoch may be cut short. None: no limit.

    Raises
    ------
    InputError
        If there are fewer images than a batch holds, or a batch cannot be divided among the ranks.
    """

    def __init__(
        self,
        split: DetectionSplit,
        indices: ArrayLike,
        batch_size: int,
        config: DetectionInput,
        names: tuple[str | int, ...],
        workers: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        ranks: int = 1,
        updates: int | None = None,
    ):
        part = np.arange(batch_size)[rank_block(batch_size, rank, ranks)]
        order = Order(indices, batch_size, names, part, updates=updates)
        super().__init__(_Training(split, config, names), _batch, order, workers, device)


def rank_block(size: int, part: int, parts: int) -> slice:
    """Positions in a batch that one of its parts holds.

    Raises
    ------
    InputError
        If ``size`` is not a multiple of ``parts``.
    """
    if size % parts:
        wanted = f"{size // parts * parts or parts} or {(size // parts + 1) * parts}"
        raise InputError(f"a batch of {size} images cannot be divided into {parts} equal parts; set batch_size to {wanted}")
    return slice(part * size // parts, (part + 1) * size // parts)


def detection_eval_batches(
    split: DetectionSplit, config: DetectionInput, batch_size: int, rank: int = 0, ranks: int = 1, workers: int = 0
) -> Iterator[DetectionEvalBatch]:
    """All images of a split in order, resized for evaluation, without dropping any; each of several ranks has every ``ranks``-th batch.

    Parameters
    ----------
    split
        Split to measure on, including images without instances.
    config
        Size in evaluation.
    batch_size
        Images per batch; the last batch may have fewer.
    rank, ranks
        Rank whose batches are made here, and the number of ranks.
    workers
        Additional processes that decode and resize.
    """
    starts = range(rank * batch_size, len(split), ranks * batch_size)
    loader = DataLoader(
        _Evaluation(split, config, batch_size),
        sampler=starts,
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=end_with_parent,
        generator=torch.Generator().manual_seed(0),  # otherwise the loader would draw from the global one
    )
    return (DetectionEvalBatch(_apart(pixels, shapes), sizes, ids) for pixels, shapes, sizes, ids in refused_in_one_line(iter(loader)))


class _Loaded(NamedTuple):
    """Batch on its way from the loading process, in few tensors, because each takes a file descriptor to pass."""

    pixels: Tensor
    """uint8, all images in sequence."""
    shapes: list[tuple[int, int]]
    """Height and width of each image."""
    boxes: Tensor
    """float32, (sum of G, 4)."""
    classes: Tensor
    segmentations: list[tuple[Segmentation, ...]]
    """Of each image."""
    ids: Tensor
    seeds: list[int]
    """Of each target."""


class _Training(Dataset[_Loaded]):
    """Makes the batch of a draw."""

    def __init__(self, split: DetectionSplit, config: DetectionInput, names: tuple[str | int, ...]):
        self._split, self._config, self._names = split, config, names

    def __getitem__(self, draw: Draw) -> _Loaded:
        samples, seeds = [], []
        for index in draw.samples.tolist():
            generator = np.random.default_rng(derive_seed(*self._names, "augment", draw.epoch, index))
            samples.append(augmented(self._split.sample(index), self._config.augmentation, generator))
            seeds.append(derive_seed(*self._names, "sampling", draw.epoch, index))
        pixels, shapes = _together([sample.image for sample in samples])
        boxes = torch.from_numpy(np.concatenate([sample.boxes for sample in samples]).astype(np.float32))
        classes = torch.from_numpy(np.concatenate([sample.classes for sample in samples]))
        return _Loaded(pixels, shapes, boxes, classes, [sample.segmentations for sample in samples], torch.from_numpy(draw.samples), seeds)


class _Evaluation(Dataset[tuple[Tensor, list[tuple[int, int]], list[tuple[int, int]], Tensor]]):
    """Makes the batch that begins at a given image."""

    def __init__(self, split: DetectionSplit, config: DetectionInput, batch_size: int):
        self._split, self._config, self._batch_size = split, config, batch_size

    def __getitem__(self, start: int) -> tuple[Tensor, list[tuple[int, int]], list[tuple[int, int]], Tensor]:
        ids = range(start, min(start + self._batch_size, len(self._split)))
        images, sizes = [], []
        for index in ids:
            image = self._split.image(index)
            sizes.append((image.shape[0], image.shape[1]))
            size = shortest_edge_size(*sizes[-1], self._config.test_size, self._config.test_longest)
            images.append(resized_image(image, *size))
        return *_together(images), sizes, torch.tensor(ids)


def _batch(loaded: _Loaded, device: torch.device) -> DetectionBatch:
    pixels, boxes, classes = (part.to(device, non_blocking=True) for part in (loaded.pixels, loaded.boxes, loaded.classes))
    counts = [len(segmentations) for segmentations in loaded.segmentations]
    masks = [_masks(segmentations, *shape, device) for segmentations, shape in zip(loaded.segmentations, loaded.shapes, strict=True)]
    targets = [Target(*parts) for parts in zip(boxes.split(counts), classes.split(counts), masks, loaded.seeds, strict=True)]
    return DetectionBatch(_apart(pixels, loaded.shapes), targets, loaded.ids)


def _masks(segmentations: Sequence[Segmentation], height: int, width: int, device: torch.device) -> Sequence[Polygons] | Tensor:
    outlines = [segmentation for segmentation in segmentations if not isinstance(segmentation, np.ndarray)]
    if len(outlines) == len(segmentations):
        return outlines
    return torch.from_numpy(np.stack([bitmap(segmentation, height, width) for segmentation in segmentations])).to(device)


def _together(images: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Images (H, W, 3) as one sequence of pixels, channel by channel, and the height and width of each."""
    shapes = [(image.shape[0], image.shape[1]) for image in images]
    pixels = torch.empty(sum(image.size for image in images), dtype=torch.uint8)
    for place, image in zip(_apart(pixels, shapes), images, strict=True):
        place.numpy()[:] = image.transpose(2, 0, 1)
    return pixels, shapes


def _apart(pixels: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    parts = pixels.split([3 * height * width for height, width in shapes])
    return [part.view(3, height, width) for part, (height, width) in zip(parts, shapes, strict=True)]
