"""Mask targets of the mask head (specification detection.md 3.4)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2mkd.data.detection_stream import Target
from m2mkd.data.segmentation import Polygons, drawn
from m2mkd.detection.operators import roi_align

MASK_SIZE = 28
"""Side of a mask in the box of its region."""


def mask_targets(target: Target, instances: Tensor, boxes: Tensor) -> Tensor:
    """Masks of instances, cut to boxes.

    Outlines are drawn in the box by COCO's rasteriser. Bitmaps are pooled over it; a position with at least one half is in the mask.

    Parameters
    ----------
    target
        Instances of the image.
    instances
        Index of the instance that each box belongs to, int64 (F).
    boxes
        (F, 4), float32.

    Returns
    -------
    Tensor
        (F, 28, 28), bool.
    """
    if isinstance(target.masks, Tensor):
        maps = target.masks[instances, None].to(torch.float32)
        places = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
        return roi_align(maps, torch.cat([places[:, None], boxes], dim=1), MASK_SIZE, 1.0)[:, 0] >= 0.5
    outlines = zip(instances.tolist(), boxes.double().numpy(force=True), strict=True)
    masks = [drawn(_inside(target.masks[instance], box), MASK_SIZE, MASK_SIZE) for instance, box in outlines]
    if not masks:
        return torch.zeros(0, MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=boxes.device)
    return torch.from_numpy(np.stack(masks)).to(boxes.device)


def _inside(polygons: Polygons, box: NDArray[np.float64]) -> Polygons:
    """Outlines in units of the positions of a mask that fills the box."""
    corner, opposite = box[:2], box[2:]
    scale = MASK_SIZE / np.maximum(opposite - corner, 0.1)
    return tuple((points - corner) * scale for points in polygons)
