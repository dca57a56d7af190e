"""NMS and ROIAlign without compiled operators, to the same results (specification detection.md 7.1)."""

import numpy as np
import torch
from torch import Tensor


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, limit: int | None = None) -> Tensor:
    """`m2mkd.detection.operators.batched_nms` by the greedy rule, one vector operation for each box that stays."""
    order = scores.argsort(descending=True, stable=True)
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.detach()[order].T.cpu().numpy())
    group = groups[order].cpu().numpy()
    area = (x1 - x0) * (y1 - y0)
    bound = np.float64(threshold)  # the compiled operator compares in double precision
    gone = np.zeros(len(area), dtype=bool)
    kept: list[int] = []
    for i in range(len(area)):
        if gone[i]:
            continue
        kept.append(i)
        if len(kept) == limit:
            break
        rest = slice(i + 1, None)
        width = np.minimum(x1[i], x1[rest]) - np.maximum(x0[i], x0[rest])
        height = np.minimum(y1[i], y1[rest]) - np.maximum(y0[i], y0[rest])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore"):  # two empty boxes: 0 / 0, which is above no threshold
            gone[rest] |= (shared / (area[i] + area[rest] - shared) > bound) & (group[i] == group[rest])
    return order[kept]


def roi_align(features: Tensor, boxes: Tensor, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """`m2mkd.detection.operators.roi_align` as two matrix products: bilinear weights of a regular grid factor into rows and columns."""
    corners = boxes[:, 1:].to(features.dtype) * scale - (0.5 if aligned else 0.0)
    columns = _axis_weights(corners[:, 0], corners[:, 2], size, features.shape[3], sampling, aligned)
    rows = _axis_weights(corners[:, 1], corners[:, 3], size, features.shape[2], sampling, aligned)
    number = boxes[:, 0].long()
    parts, places = [], []
    for image, feature in enumerate(features):
        mine = (number == image).nonzero().flatten()
        if len(mine):
            wide = torch.einsum("chw,kxw->kchx", feature, columns[mine])
            parts.append(torch.einsum("kchx,kyh->kcyx", wide, rows[mine]))
            places.append(mine)
    if not parts:
        return features.new_zeros(0, features.shape[1], size, size)
    return torch.cat(parts)[torch.cat(places).argsort()]


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
