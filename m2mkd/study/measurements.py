"""Numbers that a run measured, read from its ``metrics.json`` and checked for consistency."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

DETECTED = ("boxes", "masks")
"""Parts of an instance that a detector finds."""
PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's numbers of a detector, in COCO's order: precision over IoU 0.50 to 0.95, at two of them, and of small, medium and large instances;
recall with 1, 10 and 100 detections an image, and of the three sizes."""
ROUNDING = 1e-9
"""Tolerance of shares, which are rounded quotients."""


@dataclass(frozen=True)
class Measurement:
    """Number that a run measured."""

    split: Literal["iid", "ood", "fewshot", "graph", "detection"]
    data: str
    """Data set, as name@size."""
    metric: str
    """top1, top5 (shares from 0 to 1), loss, classes, left_out, density; of a detector each of `PRECISIONS` of boxes and of masks."""
    value: float
    rendition: str = ""
    """Kind of image measured; empty: all images."""
    count: int | None = None
    """Number of measured images; none if not recorded."""


def accuracies(split: Literal["iid", "ood"], data: str, found: Mapping[str, Any], *, whole: bool = True) -> Iterator[Measurement]:
    """Accuracies and loss on one set.

    Parameters
    ----------
    split, data
        Split and data set that were measured.
    found
        ``count``, ``top1``, ``top5`` and ``loss``; optionally ``per_class`` and ``confusion``, which must agree with them.
    whole
        True if ``top1`` is the mean over the images; false if it is reported as in the released code.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `number`; a ValueError also if the numbers contradict each other.
    """
    count = number("count", found["count"])
    values = {name: number(name, found[name]) for name in ("top1", "top5", "loss")}
    for name in ("top1", "top5") if whole else ("top5",):
        _correct(name, values[name], count)
    if whole and values["top1"] > values["top5"]:
        raise ValueError(f"top1 is {values['top1']}, but top5 {values['top5']}, which cannot be less")
    if "confusion" in found:
        _check_confusion(found, count, values["top1"] if whole else None)
    for name, value in values.items():
        yield Measurement(split, data, name, value, count=count)


def check_renditions(found: Mapping[str, Any], *, whole: bool = True) -> None:
    """Refuse renditions that contradict the accuracy of all images, and invalid counts.

    Raises
    ------
    KeyError, TypeError, AttributeError, ValueError
        As `accuracies`.
    """
    shares = [number(f"top1 of rendition {name}", value) for name, value in found["renditions"].items()]
    if whole and shares and not min(shares) - ROUNDING <= found["top1"] <= max(shares) + ROUNDING:
        raise ValueError(f"top1 is {found['top1']}, but its renditions have {min(shares)} to {max(shares)}")


def check_mean(name: str, value: float, parts: Sequence[float], count: int) -> None:
    """Refuse a mean that differs from that of its parts, or has another number of parts.

    Raises
    ------
    TypeError, ValueError
        If it does; names it.
    """
    if len(parts) != count or abs(value - sum(parts) / count) > ROUNDING:
        raise ValueError(f"{name} is {value}, which is not the mean of {count} episodes")


def check_last_line(metrics: Mapping[str, Any], last: Mapping[str, Any]) -> None:
    """Refuse final measurements of a training that differ from the end of its learning curve.

    Raises
    ------
    ValueError
        If one differs; names it.
    """
    for name in metrics.keys() & last.keys():
        if metrics[name] != last[name]:
            raise ValueError(f"{name} is {metrics[name]}, but the learning curve ends with {last[name]}")


def _correct(name: str, share: float, count: int) -> int:
    """Number of images that a share of ``count`` images is."""
    images = share * count
    if abs(images - round(images)) > ROUNDING * count:
        raise ValueError(f"{name} is {share}, which is not a whole number of {count} images")
    return round(images)


def _check_confusion(found: Mapping[str, Any], count: int, top1: float | None) -> None:
    """Refuse a confusion matrix, or accuracies of classes, that contradict the accuracy."""
    classes = found["confusion"]["classes"]
    images, right = [0] * len(classes), [0] * len(classes)
    for label, predicted, number_of in found["confusion"]["images"]:
        if not (0 <= label < len(classes) and 0 <= predicted < len(classes)):
            raise ValueError(f"confusion has class {max(label, predicted)}, but there are {len(classes)}")
        images[label] += number("count", number_of)
        right[label] += number_of if label == predicted else 0
    if sum(images) != count:
        raise ValueError(f"confusion has {sum(images)} images, but count is {count}")
    if top1 is not None and sum(right) != _correct("top1", top1, count):
        raise ValueError(f"confusion has {sum(right)} of {count} images right, but top1 is {top1}")
    shares = {name: hits / of for name, hits, of in zip(classes, right, images, strict=True) if of}
    if found["per_class"].keys() != shares.keys() or any(abs(found["per_class"][name] - shares[name]) > ROUNDING for name in shares):
        raise ValueError("per_class and confusion are not of the same images")


def precisions(data: str, found: Mapping[str, Any]) -> Iterator[Measurement]:
    """Average precision and recall of a detector, of ``boxes`` and of ``masks``; those without instances are left out.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `number`.
    """
    count = number("count", found["count"])
    for kind in DETECTED:
        for name in PRECISIONS:
            if (value := found[kind][name]) is not None:
                yield Measurement("detection", data, f"{kind}_{name}", number(f"{kind}_{name}", value), count=count)


def number(name: str, value: Any) -> Any:
    """Measured number, unchanged.

    Raises
    ------
    ValueError
        If it is not a finite number, or is a share outside 0 to 1, a loss below 0, or a count that is not a whole number; names it.
    """
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is not a finite number")
    if name.startswith(("top1", "top5", "val_top", "boxes_", "masks_")) and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but a share from 0 to 1 is needed")
    if name in ("loss", "val_loss") and value < 0:
        raise ValueError(f"{name} is {value}, but no cross-entropy is below 0")
    least = {"count": 1, "classes": 1, "left_out": 0}.get(name)
    if least is not None and (value < least or type(value) is not int):
        raise ValueError(f"{name} is {value}, but a whole number of at least {least} is needed")
    return value
