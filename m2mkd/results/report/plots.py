"""Figures of the report, drawn by matplotlib without a display."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from m2mkd.statistics import mean, summarise
from m2mkd.study.labels import variant_label

INTERVAL = "95 % interval of the mean by Student's t over seeds"
"""Meaning of every error bar."""
INK, MUTED, RULE, GROUND = "#16191d", "#59616a", "#d3d7dc", "#ffffff"
SERIES = ("#1f5fa8", "#b3541e", "#2f7d4f", "#7a4a9e", "#8a6d00", "#a12f5a")
"""Colours that can be distinguished without colour vision, and are dark enough for text on white."""
FAMILIAR = {"end_to_end": 0, "pure_kd": 1, "m2mkd": 2}
"""Variants that have the same colour in every figure."""
INCHES_WIDE = 5.6
"""Width in inches at which the smallest text is readable on a phone."""
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
class Mark:
    """Position in a figure, with a description of its content."""

    axes: Axes
    x: float
    y: float
    text: str
    series: int
    """Number of the line or setting that it belongs to."""


class Drawing(Figure):
    """Figure with descriptions of its positions, so that a page can read out what is pointed at."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.marks: list[Mark] = []


def mark(axes: Axes, x: float, y: float, text: str, series: int = 0) -> None:
    """Describe the content of a position, in the coordinates of the axes."""
    figure = axes.figure
    if isinstance(figure, Drawing):
        figure.marks.append(Mark(axes, x, y, text, series))


@dataclass(frozen=True)
class Bar:
    """Bar of a setting, with its seeds."""

    label: str
    variant: str
    """Variant, which decides the colour."""
    seeds: tuple[float, ...]
    """Shares from 0 to 1, one per seed."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    label: str
    """Line of the figure that it belongs to."""
    series: str
    """Variant, or another compared quantity; decides the colour."""
    centre: float
    half_width: float | None
    """Half of the 95 % interval; none for a single seed."""


@dataclass(frozen=True)
class Line:
    """A training and its seeds."""

    label: str
    points: dict[int, tuple[float, ...]]
    """Values of the seeds by epoch."""
    colour: int = 0
    """Index in SERIES."""
    thin: bool = False
    name: str = ""
    """Full name, if the label is not enough."""


def colours(variants: Iterable[str]) -> dict[str, int]:
    """Indices in SERIES, the familiar variants always the same."""
    others = [variant for variant in dict.fromkeys(variants) if variant not in FAMILIAR]
    return FAMILIAR | {variant: (3 + index) % len(SERIES) for index, variant in enumerate(others)}


def bars_figure(groups: Mapping[str, Sequence[Bar]], label: str) -> Drawing:
    """Horizontal bars from zero: mean, its 95 % interval, and every seed as a dot.

    Parameters
    ----------
    groups
        Bars by student.
    label
        Label of the axis.
    """
    colour = colours(bar.variant for bars in groups.values() for bar in bars)
    lines = sum(len(bars) for bars in groups.values()) + len(groups)
    with rc_context(STYLE):
        figure = Drawing(figsize=(INCHES_WIDE, 0.7 + 0.24 * lines))
        axes = figure.add_subplot()
        ticks: list[tuple[float, str]] = []
        position = 0.0
        for name, bars in groups.items():
            axes.text(0.0, position, f" {name}", va="center", ha="left", fontweight="bold")
            for bar in bars:
                position += 1
                _draw_bar(axes, position, name, bar, SERIES[colour[bar.variant]])
                ticks.append((position, bar.label))
            position += 1.1
        axes.set_yticks([height for height, _ in ticks], [text for _, text in ticks])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(position - 0.4, -0.6)
        axes.set_xlim(0, 1.15 * axes.dataLim.x1)
        axes.set_xlabel(label)
        axes.grid(axis="x")
    return figure


def _draw_bar(axes: Axes, position: float, name: str, bar: Bar, colour: str) -> None:
    values = [100 * value for value in bar.seeds]
    over = summarise(values)
    centre, half = over.mean, over.half_width
    axes.barh(position, centre, height=0.72, color=colour, alpha=0.35, edgecolor=colour, linewidth=0.8)
    if half is not None:
        axes.errorbar(centre, position, xerr=half, color=INK, capsize=3, linewidth=1.1)
    middle = (len(values) - 1) / 2
    heights = [position + 0.16 * (index - middle) for index in range(len(values))]
    axes.scatter(values, heights, s=9, color=colour, edgecolors="none", zorder=3)
    right = max([*values, centre + (half or 0)])
    spread = "" if half is None else f" ± {half:.2f}, seeds {', '.join(f'{value:.2f}' for value in values)}"
    mark(axes, centre, position, f"{name}, {bar.label}: {centre:.2f}{spread}")
    axes.annotate(f"{centre:.1f}", (right, position), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.0)


def intervals_figure(groups: Mapping[str, Sequence[Estimate]], label: str, *, zero: bool = False) -> Drawing:
    """Dots with whiskers: estimates and their 95 % intervals, a line for each label.

    Parameters
    ----------
    groups
        Estimates by heading; those with equal labels in a group share a line.
    label
        Label of the axis.
    zero
        Draw a line at zero, for differences.
    """
    series = list(dict.fromkeys(one.series for estimates in groups.values() for one in estimates))
    colour = colours(series)
    lines = sum(len({one.label for one in estimates}) + 1 for estimates in groups.values())
    with rc_context(STYLE):
        figure = Drawing(figsize=(INCHES_WIDE, 0.9 + 0.24 * lines))
        axes = figure.add_subplot()
        ticks: dict[float, str] = {}
        headings: list[tuple[float, str]] = []
        position = 0.0
        for heading, estimates in groups.items():
            headings.append((position, heading))
            for text in dict.fromkeys(one.label for one in estimates):
                position += 1
                ticks[position] = text
                here = [one for one in estimates if one.label == text]
                for index, one in enumerate(here):
                    height = position + 0.24 * (index - (len(here) - 1) / 2)
                    _draw_estimate(axes, height, heading, one, SERIES[colour[one.series]], series.index(one.series))
            position += 1.1
        if zero:
            axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(position - 0.4, -0.6)
        axes.margins(x=0.06)
        for height, heading in headings:
            axes.text(0.0, height, heading, transform=axes.get_yaxis_transform(), va="center", ha="left", fontweight="bold", fontsize=8.0)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        handles, names = axes.get_legend_handles_labels()
        if len(series) > 1:
            figure.legend(handles, names, loc="outside upper left", ncols=4 if len(series) % 3 else 3)
    return figure


def _draw_estimate(axes: Axes, height: float, heading: str, one: Estimate, colour: str, series: int) -> None:
    name = variant_label(one.series)
    label = None if name in axes.get_legend_handles_labels()[1] else name
    axes.plot([one.centre], [height], "o", markersize=4, color=colour, label=label)
    if one.half_width is not None:
        axes.hlines(height, one.centre - one.half_width, one.centre + one.half_width, color=colour, linewidth=1.4)
    interval = "" if one.half_width is None else f" ± {one.half_width:.2f}"
    mark(axes, one.centre, height, f"{heading}, {one.label}, {name}: {one.centre:.2f}{interval}", series)


def curves_figure(panels: Mapping[str, Sequence[Line]], percent: Sequence[str] = ()) -> Drawing:
    """Learning curves: mean over seeds, and a band as wide as its 95 % interval.

    Parameters
    ----------
    panels
        Lines by the name of their panel; panels are stacked vertically.
    percent
        Panels whose values are shares to be shown as percent.
    """
    with rc_context(STYLE):
        figure = Drawing(figsize=(INCHES_WIDE, 0.3 + 2.0 * len(panels)))
        stacked = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, lines) in zip(stacked, panels.items(), strict=True):
            for number, line in enumerate(lines):
                _draw_line(axes, name, number, line, 100.0 if name in percent else 1.0)
            axes.set_ylabel(name)
            axes.grid(axis="y")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        stacked[-1].set_xlabel("epoch")
        legend = stacked[0].get_legend_handles_labels()
        if len(legend[1]) > 1:
            figure.legend(*legend, loc="outside upper left", ncols=4 if len(legend[1]) % 3 else 3)
    return figure


def _draw_line(axes: Axes, panel: str, number: int, line: Line, factor: float) -> None:
    epochs = sorted(line.points)
    seeds = [[factor * value for value in line.points[epoch]] for epoch in epochs]
    means = [mean(values) for values in seeds]
    colour = SERIES[line.colour % len(SERIES)]
    halves = [summarise(values).half_width for values in seeds]
    for epoch, centre, half in zip(epochs, means, halves, strict=True):
        spread = "" if half is None or line.thin else f" ± {half:.3g}"
        mark(axes, epoch, centre, f"{line.name or line.label}, epoch {epoch}, {panel}: {centre:.4g}{spread}", number)
    (drawn,) = axes.plot(
        epochs,
        means,
        color=colour,
        linewidth=0.9 if line.thin else 1.6,
        alpha=0.75 if line.thin else 1.0,
        marker="o" if len(epochs) <= 12 else None,
        markersize=2.0 if line.thin else 3.2,
        label=line.label or None,
    )
    drawn.set_gid(f"series-{number}-line-{panel_id(panel)}")
    if any(halves) and not line.thin:
        low = [centre - (half or 0.0) for centre, half in zip(means, halves, strict=True)]
        high = [centre + (half or 0.0) for centre, half in zip(means, halves, strict=True)]
        band = axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        band.set_gid(f"series-{number}-band-{panel_id(panel)}")


def panel_id(panel: str) -> str:
    """A panel's name as part of an id."""
    return "".join(letter if letter.isalnum() else "-" for letter in panel)


def values_by_epoch(curves: pd.DataFrame, column: str) -> dict[int, tuple[float, ...]]:
    """Values of a column of the learning curves by epoch, one per seed; epochs without a value are left out."""
    known = curves[["epoch", column]].dropna()
    found: dict[int, tuple[float, ...]] = {}
    for epoch, value in zip(known["epoch"].tolist(), known[column].tolist(), strict=True):
        found[int(epoch)] = (*found.get(int(epoch), ()), float(value))
    return found
