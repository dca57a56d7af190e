"""Image transforms: augmentation in training, geometry and normalisation in evaluation (vmoe.md 4.1)."""

import random
from collections.abc import Sequence

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
    """Images (B, H, W, 3) from 0 to 255 as float32 (B, 3, H, W), less ImageNet's mean, over its standard deviation; where they lie."""
    pixels = torch.as_tensor(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return pixels.sub_(mean.to(pixels.device)).div_(std.to(pixels.device))


class TrainTransform:
    """timm's training transform, with a seed for each image.

    It has two parts, as timm's loader has: what is done image by image, on bytes, and what is done to a batch at once, where it is
    needed. Between them a batch is a quarter of its size. The order of operations is timm's: crop, flip, RandAugment, normalisation,
    erasing.

    Parameters
    ----------
    image_size
        Side S of the result.
    augmentation
        Crop, flip, RandAugment and erasing; mixing is not done here.
    """

    def __init__(self, image_size: int, augmentation: Augmentation):
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
        self._transform = transforms.Compose([*crop.transforms, *augment.transforms])
        self._erase = RandomErasing(augmentation.erase, mode="pixel", max_count=1, device="cpu") if augmentation.erase else None
        self._image_size = image_size

    def __call__(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], seeds: Sequence[int]) -> Tensor:
        """Both parts one after the other."""
        return self.finished(torch.from_numpy(self.augmented(images, seeds)), seeds)

    def augmented(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Crop, flip and RandAugment.

        Parameters
        ----------
        images
            B of them, each uint8, (H, W, 3).
        seeds
            One for each image; decides everything random about it, whatever the rest of the batch is.

        Returns
        -------
        ndarray
            uint8, (B, S, S, 3). The global generators are as before.
        """
        result = np.empty((len(images), self._image_size, self._image_size, 3), np.uint8)
        # One fork around the batch: saving and restoring the states for every image would cost more than augmenting it.
        with forked_rng("augmentation"):
            for image, seed, pixels in zip(images, seeds, result, strict=True):
                _reseed(seed)
                pixels[:] = np.asarray(self._transform(Image.fromarray(image)))
        return result

    def finished(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Normalise and erase, on the device of the images; the noise is drawn on the CPU, so that it is the same everywhere.

        Parameters
        ----------
        images
            uint8, (B, S, S, 3), from `augmented`.
        seeds
            As there.

        Returns
        -------
        Tensor
            float32, (B, 3, S, S). The global generators are as before.
        """
        batch = normalised(images)
        if self._erase is not None:
            with forked_rng("erasing"):
                for pixels, seed in zip(batch, seeds, strict=True):
                    _reseed(seed ^ 1)
                    self._erase(pixels)
        return batch


def _reseed(seed: int) -> None:
    """Seed the generators that the transforms draw from: Python's, numpy's and torch's on the CPU, and no other."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
