"""The accuracies that one run measured, read from its ``metrics.json`` and checked to be what they say."""

import math
from collections.abc import Iterator
from typing import Any

from m2mkd.study.phases import Evaluate, EvaluateTeacher, MeasureHybrid, Phase, TrainProbe


def measurements_of(config: Phase, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each number: split (iid, ood, fewshot, graph), data, rendition (empty: all images), metric, value and count of images.

    Raises
    ------
    ValueError
        If a number is missing, is no finite number, or is a share outside 0 to 1; names it.
    """
    try:
        return list(_lines(config, metrics))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no measurement {error}") from None


def _lines(config: Phase, metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(config, TrainProbe):
        base = {"split": "fewshot", "data": str(config.data), "rendition": "", "count": None}
        for name in ("top1", "top5", "loss"):
            yield base | {"metric": name, "value": _number(f"val_{name}", metrics[f"val_{name}"])}
    elif isinstance(config, MeasureHybrid):  # shown in a table of its own
        for found in (metrics["meta"], *metrics["hybrids"].values()):
            list(_accuracies({}, found))
    elif isinstance(config, Evaluate | EvaluateTeacher):
        measured = {"split": "iid", "data": str(config.data), "rendition": ""}
        yield from _accuracies(measured, metrics)
        if graph := metrics.get("diagnostics", {}).get("graph"):
            yield measured | {"split": "graph", "metric": "density", "value": _number("density", graph["density"]), "count": None}
        for data in config.ood if isinstance(config, Evaluate) else ():
            found = metrics["ood"][data.name]
            base = {"split": "ood", "data": str(data), "rendition": ""}
            yield from _accuracies(base, found)
            for name in ("classes", "left_out"):
                yield base | {"metric": name, "value": _number(name, found[name]), "count": None}
            for rendition, top1 in found["renditions"].items():
                yield base | {"rendition": rendition, "metric": "top1", "value": _number("top1", top1), "count": None}


def _accuracies(base: dict[str, Any], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    count = _number("count", found["count"])
    for name in ("top1", "top5", "loss"):
        yield base | {"metric": name, "value": _number(name, found[name]), "count": count}


def _number(name: str, value: Any) -> Any:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is no finite number")
    if name.endswith(("top1", "top5")) and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but a share from 0 to 1 is needed")
    if name in ("count", "classes") and (value < 1 or type(value) is not int):
        raise ValueError(f"{name} is {value}, but a whole number of at least 1 is needed")
    return value
