"""Accuracy on a set that shares only some of the model's classes (specification vmoe.md 5, ImageNet-R; paper.md 1.2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2mkd.data.masks import class_mask
from m2mkd.data.pack import Pack
from m2mkd.data.stream import eval_batches
from m2mkd.evaluation.accuracy import measure


def measure_masked(
    predict: Callable[[Tensor], Tensor], pack: Pack, model_classes: tuple[str, ...], batch_size: int, device: torch.device
) -> dict[str, Any]:
    """Measure with the logits cut to the common classes, on the images of these classes.

    Parameters
    ----------
    predict
        From images (B, 3, H, W) to logits of ``model_classes``.
    pack
        The out-of-distribution set; its ``val`` split is measured.
    model_classes
        Names of the model's classes, in the order of its logits.
    batch_size
        Images at a time.
    device
        Where ``predict`` computes.

    Returns
    -------
    dict
        ``top1``, ``top5``, ``loss``, ``count``, ``classes`` (common ones), ``left_out`` (images of other
        classes), and ``renditions`` (top-1 of each, where the set tells them apart).
    """
    split = pack.split("val")
    mask = class_mask(model_classes, pack.classes)
    columns, label_map = torch.from_numpy(mask.columns), torch.from_numpy(mask.labels)
    accuracy = measure(predict, eval_batches(split, pack.image_size, batch_size), device, columns, label_map)
    kept, _, left_out = mask.known(split.labels)
    correct = accuracy.correct.numpy()
    renditions = split.attributes.get("rendition")
    by_rendition = (
        {} if renditions is None else {str(name): float(correct[renditions[kept] == name].mean()) for name in np.unique(renditions[kept])}
    )
    return accuracy.summary() | {"classes": len(mask.columns), "left_out": left_out, "renditions": by_rendition}
