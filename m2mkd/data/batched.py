"""Augmentation of whole batches on their device, from the draws of timm's transforms: backend ``fast``."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.auto_augment import RandAugment
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from m2mkd.config.recipe import Augmentation
from m2mkd.data.rand_augment import OPERATIONS
from m2mkd.data.transforms import Erasing, reseed, timm_transforms
from m2mkd.seeds import forked_rng

NAMES = tuple(OPERATIONS)
NONE = -1
"""Number of no operation."""
TOGETHER = 2
"""Images that one operation takes at a time: more would not stay in a processor's cache between two steps."""


class Crops(NamedTuple):
    """Crops of B images, and what is still to be done with them."""

    pixels: Tensor
    """uint8, the pixels of one crop after the other, each (height, width, 3)."""
    sizes: Tensor
    """int64, (B, 2), height and width of each crop."""
    flipped: Tensor
    """bool, (B,)."""
    operations: Tensor
    """int64, (B, L), number of each operation of RandAugment, or `NONE`."""
    arguments: Tensor
    """float64, (B, L), argument of each operation; 0 if it has none."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "Crops":
        """Crops with their pixels on a device."""
        return self._replace(pixels=self.pixels.to(device, non_blocking=non_blocking))


class BatchedTransform:
    """timm's training transform: drawn image by image, cropped on the CPU, and applied to whole batches on their device.

    The draws are made by timm's own code in the order of `m2mkd.data.transforms.TrainTransform`, so both transforms give the same images up
    to rounding (docs/how-to/data.md).

    Parameters
    ----------
    image_size
        Side S of the result.
    augmentation
        Crop, flip, RandAugment and erasing; mixing is separate.
    """

    def __init__(self, image_size: int, augmentation: Augmentation):
        self._crop, *others = timm_transforms(image_size, augmentation)
        self._policies = [policy for policy in others if isinstance(policy, RandAugment)]
        for policy in self._policies:
            for operation in policy.ops:
                operation.aug_fn = partial(_noted, NAMES.index(operation.name))
        self._flip = augmentation.flip
        self._erased = Erasing(augmentation.erase)
        self._image_size = image_size

    def __call__(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], seeds: Sequence[int]) -> Tensor:
        """Apply both parts in order."""
        return self.finished(self.prepared(images, seeds), seeds)

    def prepared(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], seeds: Sequence[int]) -> Crops:
        """Crop, and draw everything else.

        Parameters
        ----------
        images
            B images, each uint8, (H, W, 3).
        seeds
            Seed of each image, which determines all its randomness, independent of the rest of the batch.

        Returns
        -------
        Crops
            The state of the global generators is restored.
        """
        chosen, flipped = [], []
        layers = sum(policy.num_layers for policy in self._policies)
        operations, arguments = torch.full((len(images), layers), NONE), torch.zeros(len(images), layers, dtype=torch.float64)
        with forked_rng("augmentation"):
            for number, (image, seed) in enumerate(zip(images, seeds, strict=True)):
                reseed(seed)
                top, left, height, width = self._crop.get_params(_shape(image), self._crop.scale, self._crop.ratio)
                chosen.append(image[top : top + height, left : left + width])
                flipped.append(bool(self._flip) and bool(torch.rand(1) < self._flip))
                notes: list[tuple[int, float]] = []
                for policy in self._policies:
                    policy(notes)
                for layer, (operation, argument) in enumerate(notes):
                    operations[number, layer], arguments[number, layer] = operation, argument
        sizes = torch.tensor([crop.shape[:2] for crop in chosen])
        pixels = np.empty(int(sizes.prod(1).sum()) * 3, np.uint8)
        for crop, place in zip(chosen, _places(torch.from_numpy(pixels), sizes), strict=True):
            place.numpy()[:] = crop
        return Crops(torch.from_numpy(pixels), sizes, torch.tensor(flipped), operations, arguments)

    def finished(self, crops: Crops, seeds: Sequence[int]) -> Tensor:
        """Resize, flip, apply RandAugment, normalise and erase, on the device of the crops.

        Parameters
        ----------
        crops
            From `prepared`.
        seeds
            Same seeds as for `prepared`.

        Returns
        -------
        Tensor
            float32, (B, 3, S, S). The state of the global generators is restored.
        """
        size, device = self._image_size, crops.pixels.device
        images = torch.empty(len(seeds), 3, size, size, dtype=torch.uint8, device=device)
        for image, crop in zip(images, _places(crops.pixels, crops.sizes), strict=True):
            image.copy_(functional.resize(crop.permute(2, 0, 1), [size, size], InterpolationMode.BICUBIC, antialias=True))
        mirrored = crops.flipped.nonzero()[:, 0].to(device)
        images[mirrored] = images[mirrored].flip(-1)
        for numbers, arguments in zip(crops.operations.T, crops.arguments.T, strict=True):
            for number in set(numbers.tolist()) - {NONE}:
                for here in (numbers == number).nonzero()[:, 0].split(TOGETHER):
                    there = here.to(device)
                    images[there] = OPERATIONS[NAMES[number]](images[there], arguments[here])
        return self._erased(_normalised(images), seeds)


def _noted(operation: int, notes: list[tuple[int, float]], *arguments: float, **_: Any) -> list[tuple[int, float]]:
    """Note an operation and its argument where timm would apply it to an image."""
    notes.append((operation, arguments[0] if arguments else 0.0))
    return notes


def _shape(image: NDArray[np.uint8]) -> Tensor:
    """An image of the same height and width, of which timm wants to know nothing else."""
    return torch.empty(0, *image.shape[:2])


def _places(pixels: Tensor, sizes: Tensor) -> list[Tensor]:
    """Parts of ``pixels`` that belong to each crop, (height, width, 3) each."""
    parts = pixels.split((3 * sizes.prod(1)).tolist())
    return [part.view(height, width, 3) for part, (height, width) in zip(parts, sizes.tolist(), strict=True)]


def _normalised(images: Tensor) -> Tensor:
    """Images (B, 3, S, S) from 0 to 255 as float32, minus ImageNet's mean, divided by its deviation."""
    moments = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    mean, std = (255 * torch.tensor(values, device=images.device).view(3, 1, 1) for values in moments)
    result = torch.empty(images.shape, device=images.device)
    for pixels, source in zip(result.split(TOGETHER), images.split(TOGETHER), strict=True):
        pixels.copy_(source).sub_(mean).div_(std)
    return result
