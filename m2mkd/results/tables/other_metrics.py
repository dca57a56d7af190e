"""Metrics of other packages, computed from the logits that finished runs have kept."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import pandas as pd

from m2mkd.errors import InputError
from m2mkd.evaluation.logits import KeptLogits, read_logits
from m2mkd.evaluation.metrics import METRIC_GROUP, value_of
from m2mkd.plugins import Plugin, all_plugins
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import ROW, SUMMARY
from m2mkd.results.read.records import Record, read_kept
from m2mkd.results.tables.layout import Column, Linked, Table, column, table_of
from m2mkd.statistics import summarise
from m2mkd.study.lineage import anchor_of
from m2mkd.study.phase import LOGITS
from m2mkd.study.run import Row


def other_metrics_table(collected: Collected, rows: Sequence[Row]) -> Table:
    """A line for each row and each metric that another package registers, on the validation set; empty without such a package."""
    plugins = [plugin for plugin in all_plugins(METRIC_GROUP) if not plugin.is_ours]
    remarks: dict[str, None] = {}

    @cache
    def logits_of(run_id: str) -> KeptLogits | None:
        record = collected.by_run[run_id]
        content = read_kept(collected.study, record, LOGITS)
        return read_logits(content, f"{collected.study.folder(run_id)}/{LOGITS}") if content else None

    def value(plugin: Plugin, record: Record) -> float | None:
        kept = logits_of(record.run.id)
        return None if kept is None else value_of(plugin.name, *kept)

    lines: list[dict[str, Any]] = []
    for row in rows if plugins else ():
        records = collected.counted(row)
        missing = sum(logits_of(record.run.id) is None for record in records)
        if missing:
            remarks[f"{missing} of {len(records)} runs of {row.name} keep no logits and are left out: evaluate them again"] = None
        for plugin in plugins:
            try:
                origin = plugin.provenance()
                values = [found for record in records if (found := value(plugin, record)) is not None]
            except InputError as error:
                remarks[str(error)] = None
                continue
            if values:
                data = str(records[0].run.config.data_sets[0])
                summary = asdict(summarise(values))
                lines.append(row.name._asdict() | {"data": data, "metric": plugin.name, **origin, **summary})
    exact = [*ROW, "data", "metric", "distribution", "version", "code", "n", *SUMMARY]
    shown: dict[str, Column] = {name: column(name) for name in ROW} | {"set": column("data"), "metric": column("metric")}
    shown |= {"value": _value, "seeds": column("n"), "package": lambda line: f"{line.distribution} {line.version}"}
    caption = "Metrics of other packages, from the kept logits of the validation images: mean ± half of the 95 % interval over seeds."
    frame = pd.DataFrame(lines, columns=exact).astype({"n": "Int64"} | dict.fromkeys(SUMMARY, "float64"))
    return table_of("other_metrics", " ".join([caption, *(f"{remark}." for remark in remarks)]), frame, exact, shown)


def _value(line: Any) -> str:
    half = "" if pd.isna(line.half_width) else f" ± {line.half_width:.4f}"
    return Linked(f"{line.mean:.4f}{half}", anchor_of(line))
