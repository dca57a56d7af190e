"""The forest plot of a board's claims: difference, interval, zero line, and every seed as a dot."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes

from m2mkd.results.report.contrasts import Contrast
from m2mkd.results.report.figures import Illustration
from m2mkd.results.report.plots import GROUND, MUTED, SERIES, STYLE, Drawing, mark
from m2mkd.study.labels import family_label

FOREST_INCHES = 4.7
"""Width in inches at which the text can be read on a phone."""
COLOURS = {"reproduced": 2, "holds in typical seeds": 2, "direction only": 0, "size undecided": 0, "not reproduced": 5}
"""Index in SERIES by verdict."""
OPEN = 1
"""Index in SERIES of any other verdict."""
ROW_INCHES = 0.31
"""Inches that a claim takes: a line of text, and the interval below it."""
FOREST_CAPTION = (
    "Difference in accuracy, in points. Dots: single seeds, paired. Thick line: 95 % interval by Student's t of one claim alone; thin line "
    "and numbers: 95 % for all claims at once, which decides. Filled: decided; hollow: open."
)


def is_drawn(one: Contrast) -> bool:
    """True if a claim is about a difference that has an interval."""
    return one.joint is not None and len(one.arms) > 1


def forest_figure(drawn: Sequence[Contrast]) -> Drawing:
    """The forest plot, a panel for each kind of difference.

    Parameters
    ----------
    drawn
        Claims for which `is_drawn` holds, families together; at least one.
    """
    kinds: dict[str, list[Contrast]] = {}
    for one in drawn:
        kinds.setdefault(axis_label(one), []).append(one)
    heights = [len(some) + 0.6 * len({one.family for one in some}) + 1.3 for some in kinds.values()]
    with rc_context(STYLE):
        figure = Drawing(figsize=(FOREST_INCHES, ROW_INCHES * sum(heights)))
        stacked = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (label, some) in zip(stacked, kinds.items(), strict=True):
            _draw_panel(axes, label, some)
    return figure


def axis_label(one: Contrast) -> str:
    """Label of a claim's axis, with the number of seeds."""
    what = "top-1" if one.metric in ("IID", "OOD") else one.metric
    return f"difference in {what}, {'% of the baseline' if one.unit == 'relative' else 'points'}"


def _draw_panel(axes: Axes, label: str, some: Sequence[Contrast]) -> None:
    position, family = 0.0, ""
    for series, one in enumerate(some):
        if one.family != family:
            family = one.family
            _write(axes, position, 0.0, f"{family_label(family)}", weight="bold")
            position += 0.6
        _write(axes, position, 0.0, one.label)
        _write(axes, position, 1.0, one.numbers)
        _draw_claim(axes, position + 0.45, one, series)
        position += 1.0
    seeds = sorted({one.seeds for one in some})
    axes.set_ylim(position - 0.3, -0.35)
    axes.margins(x=0.03)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{label}; {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds, 95 % intervals")


def _write(axes: Axes, height: float, where: float, text: str, **how: str) -> None:
    side = "left" if where == 0.0 else "right"
    axes.text(where, height, text, transform=axes.get_yaxis_transform(), ha=side, va="center", fontsize=8.0, **how)  # type: ignore[arg-type]


def _draw_claim(axes: Axes, height: float, one: Contrast, series: int) -> None:
    assert one.single is not None and one.joint is not None
    colour, name = SERIES[COLOURS.get(one.word, OPEN)], f"{family_label(one.family)}, {one.label}"
    # In pieces, so that it does not cross any text.
    axes.vlines(0, height - 0.24, height + 0.24, color=MUTED, linewidth=0.8)
    axes.hlines(height, one.joint.low, one.joint.high, color=colour, linewidth=0.9)
    axes.hlines(height, one.single.low, one.single.high, color=colour, linewidth=2.6)
    axes.scatter(
        [value for _, value in one.differences], [height + 0.16] * len(one.differences), s=6, color=MUTED, edgecolors="none", zorder=3
    )
    axes.plot(
        [one.joint.estimate], [height], "o", markersize=5.5, color=colour, markerfacecolor=colour if one.decided else GROUND, zorder=4
    )
    mark(axes, one.joint.estimate, height, f"{name}: {one.numbers}, {one.word}", series)
    for seed, value in one.differences:
        mark(axes, value, height + 0.16, f"{name}, {seed}: {value:+.2f}", series)


def described(drawn: Sequence[Contrast]) -> str:
    """Description of the plot for readers who do not see it."""
    said = "; ".join(f"{family_label(one.family)}, {one.label}: {one.numbers}, {one.word}" for one in drawn)
    return f"Forest plot of the claims: difference and interval. {said}."


def forest_illustrations(contrasts: Sequence[Contrast]) -> list[Illustration]:
    """Forest plot of all claims that have an interval; none if there is no such claim."""
    drawn = [one for one in contrasts if is_drawn(one)]
    if not drawn:
        return []
    return [Illustration("claims", "Every claim that was judged", FOREST_CAPTION, described(drawn), forest_figure(drawn))]
