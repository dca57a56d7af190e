"""Figures among the artifacts of a row: confusion, and the use of the network's parts. MLflow draws the learning curves itself."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import BinaryIO

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from m2mkd.results.read.records import Record
from m2mkd.results.report.detection_figures import by_size_figure, precision_recall_figure
from m2mkd.results.report.detection_pictures import detections_sheet
from m2mkd.results.report.graph_figures import diagnosis_figure, series_figure
from m2mkd.results.report.plots import INK, STYLE
from m2mkd.results.report.svg import write_png

MOST_NAMES = 30
"""Most classes whose names are written at a confusion matrix; more would not be legible."""

SeedCurves = Mapping[str, Mapping[int, Sequence[float]]]
"""Values of the seeds by name and epoch."""


def row_figures(variant: str, curves: SeedCurves, measured: Sequence[Record]) -> dict[str, Callable[[BinaryIO], None]]:
    """Functions that draw the figures of a row, by file name.

    Parameters
    ----------
    variant
        Name of the row's variant.
    curves
        Curves of the trainings of its seeds.
    measured
        Evaluations of its seeds.
    """
    drawn: dict[str, Callable[[], Figure | None]] = {}
    diagnoses = [record.metrics["diagnostics"] for record in measured if "diagnostics" in record.metrics]
    if diagnoses:
        drawn["parts.png"] = partial(diagnosis_figure, {variant: diagnoses})
    if any("/" in name for name in curves):
        epochs = sorted({epoch for name, values in curves.items() if "/" in name for epoch in values})
        lines = [{"epoch": epoch} | _means(curves, epoch) for epoch in epochs]
        drawn["parts-by-epoch.png"] = partial(series_figure, lines)
    confusion = [record.metrics["confusion"] for record in measured if "confusion" in record.metrics]
    if confusion:
        names = confusion[0]["classes"]
        shares = confusion_matrix([seed["images"] for seed in confusion], len(names))
        drawn["confusion.png"] = partial(confusion_figure, shares, names)
    detectors = [record for record in measured if "precision_recall" in record.metrics]
    if detectors:
        drawn["precision-recall.png"] = partial(precision_recall_figure, {variant: detectors})
        drawn["precision-by-size.png"] = partial(by_size_figure, {variant: detectors})
    figures: dict[str, Callable[[BinaryIO], None]] = {name: partial(_write, draw) for name, draw in drawn.items()}
    if detectors and (sheet := detections_sheet(detectors[0])) is not None:
        figures["detections.png"] = partial(sheet.save, format="PNG")
    return figures


def _write(draw: Callable[[], Figure | None], file: BinaryIO) -> None:
    figure = draw()
    assert figure is not None
    write_png(figure, file)


def _means(curves: SeedCurves, epoch: int) -> dict[str, float]:
    return {name: float(np.mean(values[epoch])) for name, values in curves.items() if "/" in name and epoch in values}


def confusion_matrix(seeds: Sequence[Sequence[Sequence[int]]], classes: int) -> NDArray[np.float64]:
    """Share of the images of each class (row) that are classified as each class (column), (C, C), over all seeds.

    Parameters
    ----------
    seeds
        For each seed the ``images`` of :func:`m2mkd.evaluation.calibration.confusion`: label, prediction and number.
    classes
        Number of classes, C.
    """
    counts = np.zeros((classes, classes))
    for found in seeds:
        for label, prediction, images in found:
            counts[label, prediction] += images
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def confusion_figure(shares: NDArray[np.float64], names: Sequence[str]) -> Figure:
    """Draw a confusion matrix; a row is a class."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.6))
        axes = figure.add_subplot()
        image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="none")
        figure.colorbar(image, label="% of the class's images")
        axes.set_xlabel("predicted")
        axes.set_ylabel("class")
        if len(names) <= MOST_NAMES:
            axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 90)
            axes.set_yticks(range(len(names)), names)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(names) <= 12:
            for label, row in enumerate(shares):
                for prediction, share in enumerate(row):
                    if share:
                        colour = "white" if share > 0.5 else INK
                        axes.text(prediction, label, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=6.5)
    return figure
