"""NMS and ROIAlign without compiled operators, with the same results (specification detection.md 7.1)."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 128
"""Maximum number of boxes whose overlaps with all others of their group are computed at once."""


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, limit: int | None = None) -> Tensor:
    """`m2mkd.detection.operators.batched_nms` by the greedy rule, down to the lowest score that is needed."""
    order = scores.argsort(descending=True, stable=True)
    corners = np.ascontiguousarray(boxes.detach()[order].T.cpu().numpy())
    group = groups[order].cpu().numpy()
    members = {number: np.flatnonzero(group == number) for number in np.unique(group)}
    gone = np.zeros(len(group), dtype=bool)
    kept: list[int] = []
    start = 0
    while start < len(group) and (limit is None or len(kept) < limit):
        # Few more boxes than are still needed, because the overlaps of the others would be in vain.
        stop = start + (BLOCK if limit is None else min(BLOCK, max(limit - len(kept), BLOCK // 8)))
        block = start + np.flatnonzero(~gone[start:stop])
        for number in np.unique(group[block]):
            rows = block[group[block] == number]
            rest = members[number][np.searchsorted(members[number], start) :]
            # In double precision, as in the compiled operator.
            excludes = _overlap(corners[:, rows, None], corners[:, None, rest]) > np.float64(threshold)
            lost = gone[rest]
            for box, place, others in zip(rows.tolist(), np.searchsorted(rest, rows).tolist(), excludes, strict=True):
                if not lost[place]:
                    kept.append(box)
                    lost |= others
            gone[rest] = lost
        start = stop
    return order[sorted(kept)[:limit]]


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes whose corners are the first axis; NaN for two boxes without area."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes, others
    shared = np.maximum(np.minimum(x1, u1) - np.maximum(x0, u0), 0) * np.maximum(np.minimum(y1, v1) - np.maximum(y0, v0), 0)
    with np.errstate(invalid="ignore"):
        return shared / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared)


def roi_align(features: Tensor, boxes: Tensor, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """`m2mkd.detection.operators.roi_align` as two matrix products: bilinear weights of a regular grid factor into rows and columns."""
    corners = boxes[:, 1:].to(features.dtype) * scale - (0.5 if aligned else 0.0)
    columns = _axis_weights(corners[:, 0], corners[:, 2], size, features.shape[3], sampling, aligned)
    rows = _axis_weights(corners[:, 1], corners[:, 3], size, features.shape[2], sampling, aligned)
    image = boxes[:, 0].long()
    # All boxes of an image are in one row, so that all images are one product.
    numbers = image.bincount(minlength=len(features))
    order = image.argsort(stable=True)
    place = torch.empty_like(image)
    place[order] = torch.arange(len(image), device=image.device) - (numbers.cumsum(0) - numbers)[image[order]]
    by_image = rows.new_zeros(len(features), int(place.max()) + 1 if len(place) else 0, *rows.shape[1:])
    by_image[image, place] = rows
    # Channels last, the layout that the pyramid's norms return.
    maps = features.permute(0, 2, 3, 1)
    tall = by_image.flatten(1, 2) @ maps.flatten(2)
    tall = tall.view(*by_image.shape[:3], *maps.shape[2:])[image, place]
    return (columns[:, None] @ tall).permute(0, 3, 1, 2)


def _axis_weights(low: Tensor, high: Tensor, bins: int, pixels: int, sampling: int, aligned: bool) -> Tensor:
    """Weights (K, bins, pixels) of one axis for boxes from ``low`` to ``high`` in units of pixels of the map."""
    length = high - low
    if not aligned:
        length = length.clamp(min=1)
    samples = torch.full_like(length, sampling) if sampling else (length / bins).ceil()
    divisor = samples.clamp(min=1)[:, None, None]
    step = torch.arange(int(divisor.max()) if len(low) else 1, device=low.device, dtype=low.dtype)
    width = (length / bins)[:, None]
    start = low[:, None] + torch.arange(bins, device=low.device, dtype=low.dtype) * width
    at = start[..., None] + (step + 0.5) * width[..., None] / divisor
    counts = (step < samples[:, None])[:, None] & (at >= -1) & (at <= pixels)
    at = at.clamp(min=0)
    below = at.floor().clamp(max=pixels - 1)
    beyond = below >= pixels - 1
    share = counts / divisor
    far = torch.where(beyond, 0, at - below)
    weights = at.new_zeros(len(low), bins, pixels)
    weights.scatter_add_(2, below.long(), (1 - far) * share)
    return weights.scatter_add_(2, (below + ~beyond).long(), far * share)
