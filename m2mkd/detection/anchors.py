"""Anchors: the boxes that proposals are measured from (specification detection.md 3.3)."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def level_anchors(
    height: int, width: int, stride: int, sizes: tuple[float, ...], ratios: tuple[float, ...], device: torch.device | None = None
) -> Tensor:
    """Anchors of one level of the pyramid; the same tensor is returned again, so it must not be changed in place.

    torchvision's generator rounds anchors, and guesses the stride from the sizes of image and map.

    Parameters
    ----------
    height, width
        Size of the level's map.
    stride
        Pixels of the image between neighbouring positions of the map.
    sizes
        Square roots of the areas in pixels.
    ratios
        Heights over widths.
    device
        Device of the result.

    Returns
    -------
    Tensor
        (``height`` x ``width`` x sizes x ratios, 4), float32: x0 y0 x1 y1, ordered by position along the rows, then by size. They are
        centred on the positions' top left corners.
    """
    widths = [(size**2 / ratio) ** 0.5 for size in sizes for ratio in ratios]
    heights = [width * ratio for width, ratio in zip(widths, [*ratios] * len(sizes), strict=True)]
    cells = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in zip(widths, heights, strict=True)], device=device)
    y, x = (torch.arange(places, device=device, dtype=torch.float32) * stride for places in (height, width))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return (torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4) + cells).view(-1, 4)
