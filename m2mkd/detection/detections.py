"""Detections, and their positions in the image before it was resized (specification detection.md 3.5)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import clip_boxes_to_image


@dataclass(frozen=True)
class Detections:
    """Instances found in one image, by falling score."""

    boxes: Tensor
    """(D, 4), float32: x0 y0 x1 y1 in pixels."""
    scores: Tensor
    """(D), float32, from 0 to 1."""
    classes: Tensor
    """(D), int64, from 0."""
    masks: Tensor
    """(D, 28, 28): probability that a position of the box belongs to the instance."""

    def __len__(self) -> int:
        return len(self.boxes)

    def resized(self, size: tuple[int, int], original: tuple[int, int]) -> "Detections":
        """Detections at another size of the image, without those whose box becomes empty.

        Parameters
        ----------
        size
            Height and width of the image that the boxes refer to.
        original
            Height and width of the result.
        """
        scale = self.boxes.new_tensor([original[1] / size[1], original[0] / size[0]] * 2)
        boxes = clip_boxes_to_image(self.boxes * scale, original)
        left = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).nonzero().flatten()
        return Detections(boxes[left], self.scores[left], self.classes[left], self.masks[left])

    def bitmaps(self, height: int, width: int) -> Tensor:
        """Masks in the image, (D, height, width), bool: true where the interpolated probability is at least one half."""
        maps = torch.zeros(len(self), height, width, dtype=torch.bool, device=self.boxes.device)
        for place, box, mask in zip(maps, self.boxes, self.masks, strict=True):
            x0, y0, x1, y1 = box.tolist()
            # Outside of the box no probability reaches one half, since the mask is surrounded by zeros.
            rows = _pixels(y0, y1, height)
            columns = _pixels(x0, x1, width)
            place[rows, columns] = _interpolated(mask, box, rows, columns) >= 0.5
        return maps


def _pixels(low: float, high: float, size: int) -> slice:
    return slice(max(int(low), 0), min(int(high) + 1, size))


def _interpolated(mask: Tensor, box: Tensor, rows: slice, columns: slice) -> Tensor:
    """Bilinear values, at pixel centres, of a mask (28, 28) that fills the box; 0 outside."""
    y, x = (torch.arange(part.start, part.stop, device=box.device, dtype=torch.float32) + 0.5 for part in (rows, columns))
    y = (y - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (x - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(mask.dtype)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
