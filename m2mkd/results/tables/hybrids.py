"""Fit of the teacher's modules to the meta model, measured before they teach any student."""

from typing import Any

import pandas as pd

from m2mkd.results.read.collect import Collected
from m2mkd.results.tables.layout import Column, Linked, Table, column, percent, table_of
from m2mkd.study.lineage import NamedRow
from m2mkd.study.phases import MeasureHybrid

VALUES = ["images", "top1", "top5"]


def hybrids_anchor(row_name: NamedRow) -> str:
    """Id, in the report, of the runs behind a teacher's lines."""
    return f"runs-{row_name.experiment}-hybrids-{row_name.profile}"


def hybrids_table(collected: Collected) -> Table:
    """Accuracy of the meta model, alone and with each of its stages replaced by the teacher's module."""
    found = []
    for record in collected.records:
        config = record.run.config
        if isinstance(config, MeasureHybrid):
            name = collected.shown_under[record.run.id]
            for module, measured in {"none": record.metrics["meta"], **record.metrics["hybrids"]}.items():
                values = (measured["count"], measured["top1"], measured["top5"])
                found.append((name.experiment, name.profile, str(config.data), module, *values))
    exact = ["experiment", "profile", "data", "module", *VALUES]
    shown = {"experiment": column("experiment"), "profile": column("profile"), "set": column("data"), "teacher's module": column("module")}
    shown |= {"images": column("images"), "top-1 %": _accuracy("top1"), "top-5 %": _accuracy("top5")}
    caption = (
        "Accuracy in percent of the meta model with one stage replaced by the teacher's module (none: the meta model alone): "
        "a module that does not fit here has nothing to teach."
    )
    return table_of("hybrids", caption, pd.DataFrame(found, columns=exact), exact, shown)


def _accuracy(name: str) -> Column:
    def text(line: Any) -> str:
        return Linked(percent(getattr(line, name)), hybrids_anchor(line))

    return text
