"""Mask targets of the mask head (specification detection.md 3.4)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2mkd.data.detection_stream import Target
from m2mkd.data.segmentation import Polygons, drawn
from m2mkd.detection.operators import roi_align

MASK_SIZE = 28
"""Side of a mask in the box of its region."""
POOLED_PIXELS = 1 << 24
"""Maximum number of pixels of bitmaps that are pooled at once, unless a single image has more."""


def mask_targets(targets: Sequence[Target], instances: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Masks of instances, cut to boxes.

    Outlines are drawn in the box by COCO's rasteriser. Bitmaps are pooled over it; a position with at least one half is in the mask.

    Parameters
    ----------
    targets
        Instances of each image.
    instances
        Index of the instance that each box of an image belongs to, int64 (F).
    boxes
        Boxes of each image (F, 4), float32.

    Returns
    -------
    Tensor
        (F of all images, 28, 28), bool, in the order of the boxes.
    """
    masks: dict[int, Tensor] = {}
    alike: dict[torch.Size, dict[int, Tensor]] = {}
    for image, target in enumerate(targets):
        if isinstance(target.masks, Tensor):
            alike.setdefault(target.masks.shape[1:], {})[image] = target.masks
        else:
            masks[image] = _from_outlines(target.masks, instances[image], boxes[image])
    for (height, width), bitmaps in alike.items():
        images = list(bitmaps)
        count = max(1, POOLED_PIXELS // (height * width * max(1, *(len(boxes[image]) for image in images))))
        for some in (images[start : start + count] for start in range(0, len(images), count)):
            maps = torch.cat([bitmaps[image][instances[image]] for image in some])
            pooled = _from_bitmaps(maps, torch.cat([boxes[image] for image in some]))
            masks |= zip(some, pooled.split([len(boxes[image]) for image in some]), strict=True)
    return torch.cat([masks[image] for image in range(len(targets))])


def _from_bitmaps(maps: Tensor, boxes: Tensor) -> Tensor:
    places = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    return roi_align(maps[:, None].to(torch.float32), torch.cat([places[:, None], boxes], dim=1), MASK_SIZE, 1.0)[:, 0] >= 0.5


def _from_outlines(outlines: Sequence[Polygons], instances: Tensor, boxes: Tensor) -> Tensor:
    each = zip(instances.tolist(), boxes.double().numpy(force=True), strict=True)
    masks = [drawn(_inside(outlines[instance], box), MASK_SIZE, MASK_SIZE) for instance, box in each]
    if not masks:
        return torch.zeros(0, MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=boxes.device)
    return torch.from_numpy(np.stack(masks)).to(boxes.device)


def _inside(polygons: Polygons, box: NDArray[np.float64]) -> Polygons:
    """Outlines in units of the positions of a mask that fills the box."""
    corner, opposite = box[:2], box[2:]
    scale = MASK_SIZE / np.maximum(opposite - corner, 0.1)
    return tuple((points - corner) * scale for points in polygons)
