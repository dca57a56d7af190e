"""Numbers that a run measured, read from its ``metrics.json`` and checked to be what they say."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's numbers of a detector, in its order: precision over IoU 0.50 to 0.95, at two of them, and of small, medium and large instances;
recall with so many detections an image, and of the three sizes."""


@dataclass(frozen=True)
class Measurement:
    """One number."""

    split: Literal["iid", "ood", "fewshot", "graph", "detection"]
    data: str
    """Data set, as name@size."""
    metric: str
    """top1, top5 (shares from 0 to 1), loss, classes, left_out, density; of a detector each of `PRECISIONS` of boxes and of masks."""
    value: float
    rendition: str = ""
    """Kind of image that it is about; empty: all of them."""
    count: int | None = None
    """Images that were measured; none where that was not recorded."""


def accuracies(split: Literal["iid", "ood"], data: str, found: Mapping[str, Any]) -> Iterator[Measurement]:
    """Accuracies and loss on one set.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `number`.
    """
    count = number("count", found["count"])
    for name in ("top1", "top5", "loss"):
        yield Measurement(split, data, name, number(name, found[name]), count=count)


def precisions(data: str, found: Mapping[str, Any]) -> Iterator[Measurement]:
    """Average precision and recall of a detector, of ``boxes`` and of ``masks``; those that there are no instances for are left out.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `number`.
    """
    count = number("count", found["count"])
    for kind in ("boxes", "masks"):
        for name in PRECISIONS:
            if (value := found[kind][name]) is not None:
                yield Measurement("detection", data, f"{kind}_{name}", number(f"{kind}_{name}", value), count=count)


def number(name: str, value: Any) -> Any:
    """A measured number, as it is.

    Raises
    ------
    ValueError
        If it is no finite number, a share outside 0 to 1, or a count that is no whole number of at least 1; names it.
    """
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is no finite number")
    if name.endswith(("top1", "top5", *PRECISIONS)) and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but a share from 0 to 1 is needed")
    if name in ("count", "classes") and (value < 1 or type(value) is not int):
        raise ValueError(f"{name} is {value}, but a whole number of at least 1 is needed")
    return value
