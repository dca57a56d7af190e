"""The graphs that NACs use after training, as a table."""

from collections.abc import Iterable

import pandas as pd

from m2mkd.results.read.records import Record
from m2mkd.results.tables.layout import Linked, Table
from m2mkd.statistics import summarise
from m2mkd.study.lineage import anchor_of
from m2mkd.study.run import Row
from m2mkd.study.study import Study

NUMBERS = {"density": "density", "mean_degree": "mean degree", "clustering": "clustering", "input_density": "input to mediator"}
"""What a diagnosis says of a graph, and the heading of its column."""


def graphs_table(study: Study, rows: Iterable[Row], records: Iterable[Record]) -> Table:
    """A line for each NAC: numbers of its graph in use, over seeds; without lines where no evaluation was diagnosed."""
    found: dict[str, list[dict[str, float]]] = {}
    for record in records:
        if graph := record.metrics.get("diagnostics", {}).get("graph"):
            found.setdefault(record.run.id, []).append(graph)
    exact, shown = [], []
    for row in {row.measured: row for row in reversed(list(rows))}.values():
        graphs = [graph for run_id in row.measured for graph in found.get(run_id, ())]
        if not graphs:
            continue
        over = {name: summarise(graph[name] for graph in graphs) for name in NUMBERS}
        prior = getattr(study.runs[row.measured[0]].config, "prior", None)
        line = {**row.name._asdict(), "prior": prior, "n": len(graphs)}
        exact.append(line | {f"{name}_{part}": getattr(one, part) for name, one in over.items() for part in ("mean", "half_width")})
        cells = (f"{one.mean:.3f}" + ("" if one.half_width is None else f" ± {one.half_width:.3f}") for one in over.values())
        linked = (Linked(cell, anchor_of(row)) for cell in cells)
        shown.append((*row.name, str(prior).replace("_", " "), str(len(graphs)), *linked))
    caption = (
        "The graph on the mediators that each trained NAC uses, mean ± half of the 95 % interval over seeds: density (share of all pairs "
        "that the kernel leaves linked), degree, clustering, and the share of links from input latents to mediators. "
        "'m2mkd graph show EXPERIMENT' draws the graph that was specified beside the one in use."
    )
    header = ("experiment", "variant", "profile", "prior", "seeds", *NUMBERS.values())
    return Table("graphs", caption, header, tuple(shown[::-1]), pd.DataFrame(exact[::-1]))
