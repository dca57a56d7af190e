"""What a mask head is to say of a region: the mask of the instance that it shows, drawn on a small square (detection.md 3.4, 7.2)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from m2mkd.data.segmentation import Bitmap, Polygons, Segmentation, drawn

THINNEST = 0.1
"""Pixels that a side of a box counts as at least."""


def mask_targets(
    segmentations: Sequence[Segmentation], matched: ArrayLike, boxes: Tensor, size: int, pool: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What the mask head is to say of each region.

    Parameters
    ----------
    segmentations
        Of the instances of one image.
    matched
        Index of the instance of each of R regions, (R,).
    boxes
        Regions x0 y0 x1 y1 in pixels of the image, float (R, 4).
    size
        Side S of the result.
    pool
        ROIAlign, aligned and with as many samples as a bin has pixels: of maps (1, 1, H, W) at boxes (K, 5) of image number and corners,
        the means (K, 1, S, S). Bitmaps are pooled by it, and are one where half of a bin is; polygons are drawn.

    Returns
    -------
    Tensor
        bool, (R, S, S).
    """
    chosen = np.asarray(matched, np.int64)
    targets = torch.zeros(len(chosen), size, size, dtype=torch.bool)
    corners = boxes.detach().cpu()
    for instance in np.unique(chosen):
        here = torch.from_numpy(np.flatnonzero(chosen == instance))
        segmentation = segmentations[instance]
        if isinstance(segmentation, np.ndarray):
            regions = torch.cat([torch.zeros(len(here), 1, dtype=corners.dtype), corners[here]], dim=1)
            targets[here] = pool(torch.from_numpy(segmentation).to(corners.dtype)[None, None], regions)[:, 0] >= 0.5
        else:
            for region in here.tolist():
                targets[region] = torch.from_numpy(_drawn_inside(segmentation, corners[region].double().numpy(), size))
    return targets


def _drawn_inside(polygons: Polygons, box: NDArray[np.float64], size: int) -> Bitmap:
    """Polygons drawn on a square of ``size`` that a box is stretched to."""
    scale = size / np.maximum(box[2:] - box[:2], THINNEST)
    return drawn([(points - box[:2]) * scale for points in polygons], size, size)
