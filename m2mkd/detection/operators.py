"""NMS and ROIAlign: torchvision's compiled operators if available, else the same in pure torch; chosen once, at import."""

import torch
from torch import Tensor
from torchvision import ops
from torchvision.extension import _has_ops

from m2mkd.detection import pure_operators

COMPILED: bool = _has_ops()
"""True if torchvision's operators are used; a CPU build of torch with a CUDA build of torchvision has none."""


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, limit: int | None = None) -> Tensor:
    """Non-maximum suppression within groups: a box is removed if a box of its group with a higher score overlaps it.

    Parameters
    ----------
    boxes
        (R, 4), x0 y0 x1 y1.
    scores
        (R). Of equal scores the first counts as higher.
    groups
        Group of each box, int64 (R).
    threshold
        Intersection over union above which a box is removed.
    limit
        Maximum number of boxes; None: all that are kept.

    Returns
    -------
    Tensor
        Indices of the kept boxes, over all groups by falling score, int64.
    """
    if not COMPILED:
        return pure_operators.batched_nms(boxes, scores, groups, threshold, limit)
    # Group by group, because torchvision's own batched_nms shifts the boxes of each group apart, which rounds them.
    stays = torch.zeros_like(scores, dtype=torch.bool)
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        stays[members[ops.nms(boxes[members], scores[members], threshold)]] = True
    kept = stays.nonzero().flatten()
    return kept[scores[kept].argsort(descending=True, stable=True)][:limit]


def roi_align(features: Tensor, boxes: Tensor, size: int, scale: float, *, sampling: int = 0, aligned: bool = True) -> Tensor:
    """Average of bilinear samples in each of ``size`` x ``size`` bins of every box; differentiable in the features.

    Parameters
    ----------
    features
        Feature maps (N, C, H, W) of images.
    boxes
        (R, 5): index of the image, x0 y0 x1 y1 in pixels of the image.
    size
        Bins along each axis.
    scale
        Pixels of the map over those of the image.
    sampling
        Samples of a bin along each axis; 0: enough that they are at most one pixel of the map apart.
    aligned
        True: pixel centres are at half pixels. False: a box is at least one pixel of the map wide and high.

    Returns
    -------
    Tensor
        (R, C, size, size), in the dtype of the features; computed at least in single precision.
    """
    exact = features.to(torch.promote_types(features.dtype, torch.float32))
    with torch.autocast(features.device.type, enabled=False):
        if COMPILED:
            pooled = ops.roi_align(exact, boxes.to(exact.dtype), (size, size), scale, sampling or -1, aligned)
        else:
            pooled = pure_operators.roi_align(exact, boxes, size, scale, sampling, aligned)
    return pooled.to(features.dtype)
