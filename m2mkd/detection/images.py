"""Conversion of images of any size into one normalised batch (specification detection.md 2)."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.errors import InputError

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet statistics of pixels from 0 to 255, red first; in single precision, whatever the network's precision."""


def batched(images: Sequence[Tensor], config: DetectorConfig, switches: DetectorSwitches, dtype: torch.dtype) -> Tensor:
    """Normalise images and pad them with zeros at the right and bottom to one size.

    Parameters
    ----------
    images
        Pixels (3, h, w) from 0 to 255, red first, of any dtype.
    config
        ``image_size`` and ``padding`` determine the size.
    switches
        ``channel_order``; ``detection_input`` determines the treatment of an image larger than the square.
    dtype
        Dtype of the result.

    Returns
    -------
    Tensor
        (N, 3, H, W).

    Raises
    ------
    InputError
        If an image does not fit the square and must not be cropped.
    """
    height, width = _size(images, config)
    if switches.detection_input == "whole" and (wrong := [image for image in images if image.shape[1] > height or image.shape[2] > width]):
        found = " x ".join(map(str, wrong[0].shape[1:]))
        raise InputError(f"an image of {found} pixels does not fit the detector's square of {height}; resize it first")
    mean, std = (constant.to(dtype) for constant in _pixel_statistics(images[0].device))
    batch = images[0].new_zeros(len(images), 3, height, width, dtype=dtype)
    for place, image in zip(batch, images, strict=True):
        seen = image[:, :height, :width]
        ordered = seen.flip(0) if switches.channel_order == "bgr" else seen
        place[:, : seen.shape[1], : seen.shape[2]] = (ordered.to(dtype) - mean) / std
    return batch


def _size(images: Sequence[Tensor], config: DetectorConfig) -> tuple[int, int]:
    if config.padding == "square":
        return config.image_size, config.image_size
    return max(image.shape[1] for image in images), max(image.shape[2] for image in images)


@cache
def _pixel_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std
