"""The graphs that NACs use after training, as a table."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from m2mkd.results.read.collect import Collected, once_each
from m2mkd.results.read.lookup import ROW
from m2mkd.results.tables.layout import Column, Linked, Table, column, table_of
from m2mkd.statistics import summarise
from m2mkd.study.lineage import anchor_of
from m2mkd.study.run import Row

HEADINGS = {"density": "density", "mean_degree": "mean degree", "clustering": "clustering", "input_density": "input to mediator"}
"""Numbers of a graph in a diagnosis, with the headings of their columns."""
VALUES = [f"{name}_{part}" for name in HEADINGS for part in ("mean", "half_width")]


def graphs_table(collected: Collected, rows: Sequence[Row]) -> Table:
    """Table with a line for each NAC: numbers of its graph in use, over seeds; empty if no evaluation was diagnosed."""
    found = []
    for row in once_each(rows):
        records = [collected.by_run[run_id] for run_id in row.measured if run_id in collected.by_run]
        graphs = pd.DataFrame([graph for record in records if (graph := record.metrics.get("diagnostics", {}).get("graph"))])
        if len(graphs):
            prior = getattr(collected.study.runs[row.measured[0]].config, "prior", None)
            over = {name: summarise(graphs[name].tolist()) for name in HEADINGS}
            values = [getattr(one, part) for one in over.values() for part in ("mean", "half_width")]
            found.append((*row.name, prior, len(graphs), *values))
    lines = pd.DataFrame(found, columns=[*ROW, "prior", "n", *VALUES])
    lines["shown_prior"] = lines["prior"].astype(str).str.replace("_", " ")
    shown = {name: column(name) for name in ROW} | {"prior": column("shown_prior"), "seeds": column("n")}
    shown |= {heading: _over_seeds(name) for name, heading in HEADINGS.items()}
    caption = (
        "The graph on the mediators that each trained NAC uses, mean ± half of the 95 % interval over seeds: density (share of all pairs "
        "that the kernel leaves linked), degree, clustering, and the share of links from input latents to mediators. "
        "'m2mkd graph show EXPERIMENT' draws the specified graph next to the one in use."
    )
    return table_of("graphs", caption, lines, [*ROW, "prior", "n", *VALUES], shown)


def _over_seeds(name: str) -> Column:
    def text(line: Any) -> str:
        half_width = getattr(line, f"{name}_half_width")
        return Linked(f"{getattr(line, f'{name}_mean'):.3f}" + ("" if pd.isna(half_width) else f" ± {half_width:.3f}"), anchor_of(line))

    return text
