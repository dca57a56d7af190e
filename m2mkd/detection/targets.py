"""What is to be found in an image, and the masks that the mask head is trained on (specification detection.md 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2mkd.detection.operators import roi_align

MASK_SIZE = 28
"""Side of a mask in the box of its region."""
Polygons = Sequence[Sequence[float]]
"""An instance's outline: each of its parts as x0 y0 x1 y1 and so on, in pixels."""


@dataclass(frozen=True)
class Target:
    """The instances of one image, G of them."""

    boxes: Tensor
    """(G, 4), float32: x0 y0 x1 y1 in pixels of the image as the detector gets it."""
    classes: Tensor
    """(G), int64, from 0."""
    masks: Sequence[Polygons] | Tensor
    """Outlines of the instances, or bitmaps (G, h, w) of the image's size, bool, on the device of the boxes."""

    def __len__(self) -> int:
        return len(self.boxes)


def mask_targets(target: Target, instances: Tensor, boxes: Tensor) -> Tensor:
    """Masks of instances as they are seen in boxes.

    Outlines are drawn in the box by COCO's rasteriser. Bitmaps are pooled over it, and a place belongs to the mask from a half on.

    Parameters
    ----------
    target
        The image's instances.
    instances
        Number of the instance that each box belongs to, int64 (F).
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
    drawn = [_drawn(target.masks[instance], box) for instance, box in zip(instances.tolist(), boxes.double().tolist(), strict=True)]
    if not drawn:
        return torch.zeros(0, MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=boxes.device)
    return torch.from_numpy(np.stack(drawn)).to(boxes.device)


def _drawn(polygons: Polygons, box: Sequence[float]) -> np.ndarray:
    from pycocotools import mask as coco

    corner = np.array(box[:2])
    scale = MASK_SIZE / np.maximum(np.array(box[2:]) - corner, 0.1)
    moved = [((np.reshape(part, (-1, 2)) - corner) * scale).ravel().tolist() for part in polygons]
    return coco.decode(coco.merge(coco.frPyObjects(moved, MASK_SIZE, MASK_SIZE))).astype(bool)
