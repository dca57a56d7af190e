"""Pooling of region features from the pyramid level that fits the region's size (specification detection.md 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from m2mkd.detection.operators import roi_align

LEVELS = 4
"""Number of levels that regions are pooled from, the finest ones."""


def region_levels(boxes: Tensor, canonical_size: float) -> Tensor:
    """Level of each box (R, 4), int64 from 0: 2 at the canonical size, one more for twice the side.

    torchvision's rule adds another epsilon at another step, which assigns boxes close to a limit to another level.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = (4 + (area.sqrt() / canonical_size + 1e-8).log2()).floor() - 2
    return level.clamp(0, LEVELS - 1).long()


def pool_regions(maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int, canonical_size: float) -> Tensor:
    """Pool the features in boxes.

    Parameters
    ----------
    maps, strides
        Levels of the pyramid (N, C, h, w), finest first, and their strides in pixels.
    boxes
        Boxes of each image (R, 4), float32.
    size
        Bins along each axis.
    canonical_size
        As in `region_levels`.

    Returns
    -------
    Tensor
        (R of all images, C, size, size), in the order of the boxes.
    """
    every = torch.cat(list(boxes))
    images = torch.cat([torch.full_like(mine[:, :1], image) for image, mine in enumerate(boxes)])
    regions = torch.cat([images, every], dim=1)
    levels = region_levels(every, canonical_size)
    parts, places = [], []
    for level in range(LEVELS):
        mine = (levels == level).nonzero().flatten()
        parts.append(roi_align(maps[level], regions[mine], size, 1 / strides[level]))
        places.append(mine)
    return torch.cat(parts)[torch.cat(places).argsort()]
