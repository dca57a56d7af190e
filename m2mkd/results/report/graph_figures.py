"""Figures of graphs and of students' use of their parts: see ``m2mkd graph show`` and :mod:`m2mkd.evaluation.diagnostics`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from m2mkd.results.read.collect import Collected
from m2mkd.results.report.figures import Illustration
from m2mkd.results.report.plots import INCHES_WIDE, INK, INTERVAL, MUTED, SERIES, STYLE, Drawing, Line, colours, curves_figure, mark
from m2mkd.statistics import mean, summarise
from m2mkd.study.labels import variant_label
from m2mkd.study.lineage import student_of

if TYPE_CHECKING:
    from m2mkd.evaluation.graph import GraphComparison

Diagnosis = dict[str, Any]
MOST_BARS = 30
"""Most bars of a histogram of degrees."""


def comparison_figure(comparison: "GraphComparison", title: str) -> Figure:
    """Adjacency of the intended and the realised graphs side by side, and below each its histogram of degrees."""
    graphs = [graph for graph in (comparison.intended, *comparison.realised) if graph is not None]
    most = max(graph.degrees.max().item() for graph in graphs)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(graphs), 5.0))
        rows = figure.subplots(2, len(graphs), squeeze=False, height_ratios=(3, 2))
        for above, below, graph in zip(*rows, graphs, strict=True):
            above.imshow(graph.links.numpy(), cmap="binary", interpolation="none")
            above.set_title(f"{graph.title}\ndensity {graph.density:.4f}", fontsize="medium")
            above.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            above.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            # As wide as the densest graph's, so that the shapes can be compared.
            bins = min(MOST_BARS, int(most) + 1)
            below.hist(graph.degrees.numpy(), bins=bins, range=(-0.5, most + 0.5), color=SERIES[0])
            below.set_xlabel("degree")
        rows[0][0].set_ylabel("mediator")
        rows[1][0].set_ylabel("mediators")
        figure.suptitle(title)
    return figure


def diagnosis_illustrations(collected: Collected) -> list[Illustration]:
    """Figures of the students whose evaluation was diagnosed, one for each student with all its variants."""
    study = collected.study
    diagnosed = {record.run.id: record.metrics["diagnostics"] for record in collected.records if "diagnostics" in record.metrics}
    students: dict[tuple[str, str], dict[str, list[Diagnosis]]] = {}
    for row in collected.students:
        seeds = [diagnosed[run_id] for run_id in row.measured if run_id in diagnosed]
        if seeds:
            student, variant = student_of(study, row.experiment, row.variant)
            students.setdefault((student, row.profile), {}).setdefault(variant, seeds)
    found = []
    for (student, profile), variants in students.items():
        title = student if len(study.scale.profiles) == 1 else f"{student} ({profile})"
        name = f"parts-{student}-{profile}"
        found.append(Illustration(name, title, _caption(variants), _description(title, variants), diagnosis_figure(variants)))
    return found


def diagnosis_figure(variants: Mapping[str, Sequence[Diagnosis]]) -> Drawing:
    """Figure of the variants' use of a student's parts, layer by layer, as means over seeds.

    Parameters
    ----------
    variants
        Diagnoses of the seeds by variant; all of one architecture.
    """
    colour = colours(variants)
    panels = _panels(next(iter(variants.values())))
    with rc_context(STYLE):
        figure = Drawing(figsize=(INCHES_WIDE, 0.4 + 1.9 * len(panels)))
        stacked = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (label, draw) in zip(stacked, panels.items(), strict=True):
            axes.set_ylabel(label)
            for order, (variant, seeds) in enumerate(variants.items()):
                shift = 0.12 * (order - (len(variants) - 1) / 2)
                draw(axes, seeds, SERIES[colour[variant]], shift, variant_label(variant))
            axes.grid(axis="y")
            axes.set_ylim(0, 1.08 * axes.dataLim.y1)
        handles = stacked[0].get_legend_handles_labels()
        if len(variants) > 1:
            figure.legend(*handles, loc="outside upper left", ncols=4 if len(variants) % 3 else 3)
    return figure


def series_figure(curves: Iterable[Mapping[str, float]]) -> Drawing | None:
    """Figure of the numbers of :func:`m2mkd.evaluation.diagnostics.scalars` over a training: a panel for each kind, a line per layer.

    Parameters
    ----------
    curves
        A line for each epoch, with ``epoch``; only names like ``layer/number`` are drawn. Without such a name nothing is drawn.
    """
    panels: dict[str, dict[str, Line]] = {}
    for epoch in curves:
        for name, value in epoch.items():
            layer, slash, number = name.rpartition("/")
            if slash:
                lines = panels.setdefault(number.replace("_", " "), {})
                line = lines.setdefault(layer, Line(layer, {}, len(lines), thin=True))
                line.points[int(epoch["epoch"])] = (value,)
    return curves_figure({name: list(lines.values()) for name, lines in panels.items()}) if panels else None


def _panels(seeds: Sequence[Diagnosis]) -> dict[str, Any]:
    if "tokens" in seeds[0]["layers"][0]:
        return {"tokens of an expert,\nover an even share": _draw_tokens, "router entropy, nats": _draw_router}
    return {
        "effective senders": _draw_senders,
        "entropy of a head, nats": _draw_entropy,
        "attention to a mediator,\nover an even share": _draw_mediators,
    }


def _layer_names(axes: Axes, diagnosis: Diagnosis) -> None:
    names = [layer["name"] for layer in diagnosis["layers"]]
    short = {"read_in": "read-in", "read_out": "read-out"}
    axes.set_xticks(range(len(names)), [short.get(name, name.removeprefix("propagators.") if "propa" in name else "") for name in names])
    if "tokens" in diagnosis["layers"][0]:
        axes.set_xticks(range(len(names)), [str(layer) for layer in range(len(names))])
        axes.set_xlabel("MoE layer")


def _over_seeds(seeds: Sequence[Diagnosis], layer: int, *names: str) -> float:
    values: list[Any] = [seed["layers"][layer] for seed in seeds]
    for name in names:
        values = [value[name] for value in values]
    return mean(values)


def _draw_layers(axes: Axes, seeds: Sequence[Diagnosis], colour: str, shift: float, label: str, *names: str) -> None:
    positions = [layer + shift for layer in range(len(seeds[0]["layers"]))]
    values = [_over_seeds(seeds, layer, *names) for layer in range(len(positions))]
    axes.plot(positions, values, color=colour, marker="o", markersize=3, linewidth=1.1, label=label)
    for layer, (position, value) in enumerate(zip(positions, values, strict=True)):
        _mark(axes, position, value, f"{label}, {seeds[0]['layers'][layer]['name']}")
    _layer_names(axes, seeds[0])


def _mark(axes: Axes, x: float, y: float, what: str) -> None:
    label = axes.get_ylabel().replace("\n", " ")
    mark(axes, x, y, f"{what}, {label}: {y:.3g}")


def _draw_senders(axes: Axes, seeds: Sequence[Diagnosis], colour: str, shift: float, label: str) -> None:
    _draw_layers(axes, seeds, colour, shift, label, "effective_senders", "mean")
    for layer in range(len(seeds[0]["layers"])):
        over = summarise([seed["layers"][layer]["effective_senders"]["mean"] for seed in seeds])
        if over.half_width is not None:
            axes.vlines(layer + shift, over.mean - over.half_width, over.mean + over.half_width, color=colour, alpha=0.5, linewidth=3)


def _dots(axes: Axes, lists: Sequence[Sequence[Sequence[float]]], colour: str, shift: float, label: str, factor: float = 1.0) -> None:
    """Draw a dot for each number of every layer, the mean over seeds; ``lists`` is by seed, layer, number."""
    for layer, of_seeds in enumerate(zip(*lists, strict=True)):
        values = [factor * mean(numbers) for numbers in zip(*of_seeds, strict=True)]
        axes.scatter([layer + shift] * len(values), values, s=10, color=colour, alpha=0.8, linewidths=0, label=None if layer else label)
        for value in values:
            _mark(axes, layer + shift, value, f"{label}, layer {layer}")


def _draw_entropy(axes: Axes, seeds: Sequence[Diagnosis], colour: str, shift: float, label: str) -> None:
    _dots(axes, [[layer["entropy"] for layer in seed["layers"]] for seed in seeds], colour, shift, label)
    _layer_names(axes, seeds[0])


def _draw_mediators(axes: Axes, seeds: Sequence[Diagnosis], colour: str, _: float, label: str) -> None:
    # Seeds differ in their graphs, so that only ranks can be averaged.
    ranked = [sorted(seed["mediator_share"], reverse=True) for seed in seeds]
    shares = [len(ranked[0]) * mean(values) for values in zip(*ranked, strict=True)]
    axes.plot(shares, color=colour, linewidth=1.1, label=label)
    for rank, share in enumerate(shares):
        _mark(axes, rank, share, f"{label}, mediator {rank + 1}")
    axes.axhline(1, color=MUTED, linewidth=0.6)
    axes.set_xlim(0, len(ranked[0]) - 1)
    axes.set_xlabel("mediators, the most attended first")


def _draw_tokens(axes: Axes, seeds: Sequence[Diagnosis], colour: str, shift: float, label: str) -> None:
    shares = [[sorted(layer["tokens"]) for layer in seed["layers"]] for seed in seeds]
    _dots(axes, shares, colour, shift, label, factor=len(shares[0][0]))
    axes.axhline(1, color=INK, linewidth=0.6)
    _layer_names(axes, seeds[0])


def _draw_router(axes: Axes, seeds: Sequence[Diagnosis], colour: str, shift: float, label: str) -> None:
    _draw_layers(axes, seeds, colour, shift, label, "router_entropy")


def _caption(variants: Mapping[str, Sequence[Diagnosis]]) -> str:
    diagnosis = next(iter(variants.values()))[0]
    where = f"On the first {diagnosis['images']} validation images, means over seeds."
    if "tokens" in diagnosis["layers"][0]:
        return f"{where} Each dot is an expert, the experts of a layer in order of their share; 1 is an even share."
    senders = "exponential of the entropy of a receiver's attention, averaged over images and heads"
    return f"{where} Effective senders: {senders}; bars: {INTERVAL}. Each dot is a head."


def _description(title: str, variants: Mapping[str, Sequence[Diagnosis]]) -> str:
    parts = []
    for variant, seeds in variants.items():
        layers = range(len(seeds[0]["layers"]))
        if "tokens" in seeds[0]["layers"][0]:
            shares = [mean([max(seed["layers"][layer]["tokens"]) for seed in seeds]) for layer in layers]
            values = f"largest share of one expert {', '.join(f'{100 * share:.0f}%' for share in shares)}"
        else:
            values = "effective senders " + ", ".join(f"{_over_seeds(seeds, layer, 'effective_senders', 'mean'):.1f}" for layer in layers)
        parts.append(f"{variant_label(variant)}: {values}")
    return f"Use of parts by layer, {title}. {'; '.join(parts)}."
