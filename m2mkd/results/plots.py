"""Figures of the report, drawn by matplotlib without a display."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from m2mkd.statistics import mean, std

INK, MUTED, RULE = "#16191d", "#59616a", "#d3d7dc"
SERIES = ("#1f5fa8", "#b3541e", "#2f7d4f", "#7a4a9e", "#8a6d00", "#a12f5a")
"""Distinguishable without colour vision, and dark enough for text on white."""
FAMILIAR = {"end_to_end": 0, "pure_kd": 1, "m2mkd": 2}
"""Variants that have the same colour in every figure."""
WIDTH = 5.6
"""Inches, so that the smallest text is readable on a phone."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "m2mkd",
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Bar:
    """One setting and its seeds."""

    label: str
    variant: str
    """Decides the colour."""
    seeds: tuple[float, ...]
    """Shares from 0 to 1, one a seed."""


@dataclass(frozen=True)
class Line:
    """A training and its seeds."""

    label: str
    points: dict[int, tuple[float, ...]]
    """Values of the seeds by epoch."""
    colour: int = 0
    """Place in SERIES."""
    thin: bool = False


def variant_label(variant: str) -> str:
    """A variant as people call it."""
    names = {"m2mkd": "m2mKD", "pure_kd": "pure KD", "end_to_end": "end to end"}
    stem = next((known for known in names if variant == known or variant.startswith(f"{known}_")), None)
    return f"{names[stem]}{variant[len(stem) :].replace('_', ' ')}" if stem else variant.replace("_", " ")


def colours(variants: Iterable[str]) -> dict[str, int]:
    """Places in SERIES, the familiar variants always at the same."""
    others = [variant for variant in dict.fromkeys(variants) if variant not in FAMILIAR]
    return FAMILIAR | {variant: (3 + place) % len(SERIES) for place, variant in enumerate(others)}


def bars_figure(groups: Mapping[str, Sequence[Bar]], label: str) -> Figure:
    """Horizontal bars from zero: mean, sample standard deviation, and every seed as a dot.

    Parameters
    ----------
    groups
        Bars by student.
    label
        What the axis shows.
    """
    places = colours(bar.variant for bars in groups.values() for bar in bars)
    lines = sum(len(bars) for bars in groups.values()) + len(groups)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.24 * lines))
        axes = figure.add_subplot()
        ticks: list[tuple[float, str]] = []
        position = 0.0
        for name, bars in groups.items():
            axes.text(0.0, position, f" {name}", va="center", ha="left", fontweight="bold")
            for bar in bars:
                position += 1
                _draw_bar(axes, position, bar, SERIES[places[bar.variant]])
                ticks.append((position, bar.label))
            position += 1.1
        axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(position - 0.4, -0.6)
        axes.set_xlim(0, 1.15 * axes.dataLim.x1)
        axes.set_xlabel(label)
        axes.grid(axis="x")
    return figure


def _draw_bar(axes: Axes, position: float, bar: Bar, colour: str) -> None:
    values = [100 * value for value in bar.seeds]
    centre, deviation = mean(values), std(values)
    axes.barh(position, centre, height=0.72, color=colour, alpha=0.35, edgecolor=colour, linewidth=0.8)
    if deviation is not None:
        axes.errorbar(centre, position, xerr=deviation, color=INK, capsize=3, linewidth=1.1)
    middle = (len(values) - 1) / 2
    heights = [position + 0.16 * (index - middle) for index in range(len(values))]
    axes.scatter(values, heights, s=9, color=colour, edgecolors="none", zorder=3)
    right = max([*values, centre + (deviation or 0)])
    axes.annotate(f"{centre:.1f}", (right, position), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.0)


def curves_figure(panels: Mapping[str, Sequence[Line]], percent: Sequence[str] = ()) -> Figure:
    """Learning curves: mean over seeds, and a band of one sample standard deviation on either side.

    Parameters
    ----------
    panels
        Lines by the name of what they show; the panels stand one above the other.
    percent
        Panels whose values are shares to be shown as percent.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.3 + 2.0 * len(panels)))
        stacked = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, lines) in zip(stacked, panels.items(), strict=True):
            for line in lines:
                _draw_line(axes, line, 100.0 if name in percent else 1.0)
            axes.set_ylabel(name)
            axes.grid(axis="y")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        stacked[-1].set_xlabel("epoch")
        legend = stacked[0].get_legend_handles_labels()
        if len(legend[1]) > 1:
            figure.legend(*legend, loc="outside upper left", ncols=4 if len(legend[1]) % 3 else 3)
    return figure


def _draw_line(axes: Axes, line: Line, factor: float) -> None:
    epochs = sorted(line.points)
    seeds = [[factor * value for value in line.points[epoch]] for epoch in epochs]
    means = [mean(values) for values in seeds]
    colour = SERIES[line.colour % len(SERIES)]
    axes.plot(
        epochs,
        means,
        color=colour,
        linewidth=0.9 if line.thin else 1.6,
        alpha=0.75 if line.thin else 1.0,
        marker="o" if len(epochs) <= 12 else None,
        markersize=2.0 if line.thin else 3.2,
        label=line.label or None,
    )
    deviations = [std(values) or 0.0 for values in seeds]
    if any(deviations) and not line.thin:
        low = [centre - deviation for centre, deviation in zip(means, deviations, strict=True)]
        high = [centre + deviation for centre, deviation in zip(means, deviations, strict=True)]
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)


def points(curves: pd.DataFrame, column: str) -> dict[int, tuple[float, ...]]:
    """Values of a column of the learning curves by epoch, one a seed; epochs without a value are left out."""
    known = curves[["epoch", column]].dropna()
    found: dict[int, tuple[float, ...]] = {}
    for epoch, value in zip(known["epoch"].tolist(), known[column].tolist(), strict=True):
        found[int(epoch)] = (*found.get(int(epoch), ()), float(value))
    return found
