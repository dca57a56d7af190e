"""Figures of detectors: precision over recall, precision by size of the instances, and learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context

from m2mkd.results.read.collect import Collected
from m2mkd.results.read.records import Record
from m2mkd.results.report.figures import Illustration
from m2mkd.results.report.plots import (
    INCHES_WIDE,
    INTERVAL,
    SERIES,
    STYLE,
    Drawing,
    Estimate,
    Line,
    colours,
    curves_figure,
    intervals_figure,
    mark,
)
from m2mkd.results.tables.detection import BY_SIZE, detectors
from m2mkd.statistics import summarise
from m2mkd.study.labels import variant_label
from m2mkd.study.measurements import DETECTED
from m2mkd.study.run import Row

DETECTOR_PANELS = {"training loss": "loss", "boxes AP50 %": "val_boxes_AP50", "masks AP50 %": "val_masks_AP50"}
"""Column of the learning curves that each panel shows."""
OVERLAPS = {"0.5": "-", "0.75": "--"}
"""Overlaps at which precision is drawn over recall, with their line styles."""
MARKED = 10
"""Number of recalls between two marks."""


def detection_illustrations(collected: Collected) -> list[Illustration]:
    """All figures of the detectors of a study; none if it has no detectors."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for row in detectors(collected):
        records = [collected.by_run[run_id] for run_id in row.measured if run_id in collected.by_run]
        groups.setdefault(_heading(collected, row), {})[row.variant] = records
    found = []
    for heading, variants in groups.items():
        found += [_precision_recall(heading, variants), _by_size(heading, variants)]
    return found + _curves(collected)


def _heading(collected: Collected, row: Row) -> str:
    return row.experiment + (f" ({row.profile})" if len(collected.study.scale.profiles) > 1 else "")


def precision_recall_figure(variants: Mapping[str, Sequence[Record]]) -> Drawing:
    """Precision over recall of boxes and of masks, mean over classes and seeds, of each variant."""
    colour = colours(variants)
    with rc_context(STYLE):
        figure = Drawing(figsize=(INCHES_WIDE, 3.4))
        for axes, kind in zip(figure.subplots(1, len(DETECTED), sharey=True), DETECTED, strict=True):
            for number, (variant, records) in enumerate(variants.items()):
                for overlap, style in OVERLAPS.items():
                    recall, precision = _mean_curve(records, kind, overlap)
                    label = f"{variant_label(variant)}, IoU {overlap}"
                    axes.plot(recall, precision, style, color=SERIES[colour[variant] % len(SERIES)], linewidth=1.2, label=label)
                    for x, y in list(zip(recall, precision, strict=True))[::MARKED]:
                        mark(axes, x, y, f"{kind}, {label}, recall {x:.0f} %: precision {y:.1f} %", number)
            axes.set_title(kind, fontsize=9.0)
            axes.set_xlabel("recall %")
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 102)
            axes.grid(axis="y")
        figure.axes[0].set_ylabel("precision %")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=7.5)
    return figure


def _mean_curve(records: Sequence[Record], kind: str, overlap: str) -> tuple[list[float], list[float]]:
    curves = [record.metrics["precision_recall"] for record in records]
    recall: list[float] = (100 * np.asarray(curves[0]["recall"])).tolist()
    precision: list[float] = (100 * np.mean([curve[kind][overlap] for curve in curves], axis=0)).tolist()
    return recall, precision


def by_size_figure(variants: Mapping[str, Sequence[Record]]) -> Drawing:
    """Average precision of instances of each size, with intervals over seeds, of each variant."""
    return intervals_figure(size_estimates(variants), "AP %")


def size_estimates(variants: Mapping[str, Sequence[Record]]) -> dict[str, list[Estimate]]:
    """Estimates that `by_size_figure` draws, boxes and masks separately; all sizes together come first."""
    found: dict[str, list[Estimate]] = {}
    for kind in DETECTED:
        for name, size in {"AP": "all", **BY_SIZE}.items():
            for variant, records in variants.items():
                known = [100 * value for record in records if (value := record.metrics[kind][name]) is not None]
                if known:
                    over = summarise(known)
                    found.setdefault(kind, []).append(Estimate(size, variant, over.mean, over.half_width))
    return found


def _precision_recall(heading: str, variants: dict[str, list[Record]]) -> Illustration:
    said = "; ".join(f"{variant_label(variant)} {_mean_ap(records):.1f}" for variant, records in variants.items())
    caption = (
        "Mean over classes and seeds, at an overlap of 0.5 (solid) and of 0.75 (dashed). The area below a curve is the AP at that overlap."
    )
    title = f"{heading}: precision over recall"
    description = f"{title}, of boxes and of masks. AP50 of boxes in percent: {said}."
    return Illustration(f"precision-{_name(heading)}", title, caption, description, precision_recall_figure(variants))


def _mean_ap(records: Sequence[Record]) -> float:
    return 100 * float(np.mean([record.metrics["boxes"]["AP50"] or 0.0 for record in records]))


def _by_size(heading: str, variants: dict[str, list[Record]]) -> Illustration:
    said = "; ".join(
        f"{kind}: " + ", ".join(f"{one.label} {variant_label(one.series)} {one.centre:.1f}" for one in estimates)
        for kind, estimates in size_estimates(variants).items()
    )
    title = f"{heading}: average precision by size"
    caption = "Dots: mean over seeds. Whiskers: 95 % interval by Student's t. Small: below 32 x 32 pixels; large: from 96 x 96 on."
    return Illustration(f"sizes-{_name(heading)}", title, caption, f"{title}, in percent. {said}.", by_size_figure(variants))


def _curves(collected: Collected) -> list[Illustration]:
    trained: dict[str, dict[str, list[Any]]] = {}
    records = {record.run.id: record for record in collected.records if record.run.phase == "train_detector"}
    for row in detectors(collected):
        found = [records[run_id] for run_id in row.trained if run_id in records]
        if found:
            trained.setdefault(_heading(collected, row), {})[row.variant] = found
    illustrations = []
    for heading, variants in trained.items():
        colour = colours(variants)
        panels = {
            title: [Line(variant_label(variant), _values(found, name), colour[variant]) for variant, found in variants.items()]
            for title, name in DETECTOR_PANELS.items()
        }
        title = f"{heading}: training of the detector"
        figure = curves_figure(panels, percent=tuple(DETECTOR_PANELS)[1:])
        caption = f"Lines: mean over seeds; bands: {INTERVAL}, where there are several."
        illustrations.append(Illustration(f"curves-{_name(heading)}", title, caption, f"Learning curves, {title}.", figure))
    return illustrations


def _values(records: Sequence[Record], name: str) -> dict[int, tuple[float, ...]]:
    """Values of the seeds by epoch, for epochs with a measurement."""
    found: dict[int, tuple[float, ...]] = {}
    for record in records:
        for line in record.curves:
            if name in line:
                found[line["epoch"]] = (*found.get(line["epoch"], ()), float(line[name]))
    return found


def _name(heading: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in heading).strip("-")
