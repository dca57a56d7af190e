"""Image transforms: augmentation in training, geometry and normalisation in evaluation (vmoe.md 4.1)."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms

from m2mkd.config.recipe import Augmentation
from m2mkd.seeds import forked_rng


def normalised(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Images (B, H, W, 3) from 0 to 255 as float32 (B, 3, H, W), minus ImageNet's mean, divided by its deviation; on the same device."""
    pixels = torch.as_tensor(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return pixels.sub_(mean.to(pixels.device)).div_(std.to(pixels.device))


class TrainTransform:
    """timm's training transform, with a seed for each image: backend ``exact``.

    It has two parts, like timm's loader: one for each image, on bytes, and one for a whole batch, on its device. Between the parts a
    batch has a quarter of its final size. The order of operations is timm's: crop, flip, RandAugment, normalisation,
    erasing.

    Parameters
    ----------
    image_size
        Side S of the result.
    augmentation
        Crop, flip, RandAugment and erasing; mixing is separate.
    """

    def __init__(self, image_size: int, augmentation: Augmentation):
        self._transform = transforms.Compose(timm_transforms(image_size, augmentation))
        self._erased = Erasing(augmentation.erase)
        self._image_size = image_size

    def __call__(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], seeds: Sequence[int]) -> Tensor:
        """Apply both parts in order."""
        return self.finished(self.prepared(images, seeds), seeds)

    def prepared(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], seeds: Sequence[int]) -> Tensor:
        """Crop, flip and RandAugment.

        Parameters
        ----------
        images
            B images, each uint8, (H, W, 3).
        seeds
            Seed of each image, which determines all its randomness, independent of the rest of the batch.

        Returns
        -------
        Tensor
            uint8, (B, S, S, 3). The state of the global generators is restored.
        """
        result = np.empty((len(images), self._image_size, self._image_size, 3), np.uint8)
        # One fork for the batch: saving and restoring the states for every image would take longer than augmenting it.
        with forked_rng("augmentation"):
            for image, seed, pixels in zip(images, seeds, result, strict=True):
                reseed(seed)
                pixels[:] = np.asarray(self._transform(Image.fromarray(image)))
        return torch.from_numpy(result)

    def finished(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Normalise and erase, on the device of the images; noise is drawn on the CPU, so that it is the same everywhere.

        Parameters
        ----------
        images
            uint8, (B, S, S, 3), from `prepared`.
        seeds
            Same seeds as for `prepared`.

        Returns
        -------
        Tensor
            float32, (B, 3, S, S). The state of the global generators is restored.
        """
        return self._erased(normalised(images), seeds)


class Erasing:
    """timm's random erasing with a seed for each image: per-pixel noise in one box.

    Parameters
    ----------
    probability
        Share of the images that have a box.
    """

    def __init__(self, probability: float):
        self._erase = RandomErasing(probability, mode="pixel", max_count=1, device="cpu") if probability else None

    def __call__(self, batch: Tensor, seeds: Sequence[int]) -> Tensor:
        """Erase in place, on the device of the batch, (B, 3, S, S); the state of the global generators is restored."""
        if self._erase is not None:
            with forked_rng("erasing"):
                for pixels, seed in zip(batch, seeds, strict=True):
                    reseed(seed ^ 1)
                    self._erase(pixels)
        return batch


def timm_transforms(image_size: int, augmentation: Augmentation) -> list[Any]:
    """Crop, flip if there is one, and RandAugment if there is one, as timm makes them for one image."""
    crop, augment, _ = create_transform(
        image_size,
        is_training=True,
        separate=True,
        interpolation="bicubic",
        color_jitter=None,
        scale=augmentation.crop_scale,
        ratio=augmentation.crop_ratio,
        hflip=augmentation.flip,
        auto_augment=augmentation.rand_augment,
    )
    return [*crop.transforms, *augment.transforms]


def reseed(seed: int) -> None:
    """Seed the generators that the transforms draw from: Python's, numpy's and torch's on the CPU, but no others."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
