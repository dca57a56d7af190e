"""Accuracy on a set that shares only some of the model's classes (specification vmoe.md 5, ImageNet-R; paper.md 1.2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2mkd.data.masks import class_mask
from m2mkd.data.pack import Pack, Split
from m2mkd.data.stream import eval_batches
from m2mkd.evaluation.accuracy import measure
from m2mkd.evaluation.released import Meter, metered


def measure_masked(
    predict: Callable[[Tensor], Tensor],
    pack: Pack,
    model_classes: tuple[str, ...],
    batch_size: int,
    device: torch.device,
    *,
    masked: bool = True,
    subset: Callable[[Split], Split] = lambda split: split,
    meter: Meter | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Measure with the logits cut to the common classes, on the images of these classes.

    Parameters
    ----------
    predict
        Maps images (B, 3, H, W) to logits of ``model_classes``.
    pack
        The out-of-distribution set; its ``val`` split is measured.
    model_classes
        Names of the model's classes, in the order of its logits.
    batch_size
        Images at a time.
    device
        Device on which ``predict`` computes.
    masked
        True: cut the logits. False: compare the model's largest logit with the set's own label, as the released code does for V-MoE,
        whatever class either number means (vmoe.md finding 6).
    subset
        Selects the images of the split that count; by default all of them.
    meter
        Averaging of the reported accuracy; None: the mean over all images.
    workers
        Processes that decode and resize the images.

    Returns
    -------
    dict
        ``top1``, ``top5``, ``loss``, ``count``, ``classes`` (common ones), ``left_out`` (images of other classes), and ``renditions``
        (top-1 of each, if the set labels them).
    """
    split = subset(pack.split("val"))
    mask = class_mask(model_classes, pack.classes)
    columns, label_map = torch.from_numpy(mask.columns), torch.from_numpy(mask.labels)
    batches = eval_batches(split, pack.image_size, batch_size, workers=workers)
    if masked:
        accuracy = measure(predict, batches, device, columns, label_map)
        kept, _, left_out = mask.known(split.labels)
    else:
        accuracy = measure(predict, batches, device)
        kept, left_out = np.arange(len(split)), 0
    correct = accuracy.correct.numpy()
    renditions = split.attributes.get("rendition")
    by_rendition = (
        {} if renditions is None else {str(name): float(correct[renditions[kept] == name].mean()) for name in np.unique(renditions[kept])}
    )
    return metered(accuracy, meter).summary() | {"classes": len(mask.columns), "left_out": left_out, "renditions": by_rendition}
