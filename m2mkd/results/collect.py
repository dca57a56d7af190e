"""Every finished run of a study as tidy frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from m2mkd.config.phases import METRICS, Data, Evaluate, EvaluateTeacher, ImportWeights, TrainProbe
from m2mkd.config.study import Row, Run, Study
from m2mkd.errors import InputError
from m2mkd.results.lineage import homes, place_of
from m2mkd.results.lookup import Numbers
from m2mkd.results.records import Record, read_record, read_records
from m2mkd.results.runs_table import runs_frame

MEASUREMENT_COLUMNS = ["experiment", "variant", "profile", "run", "replicate", "split", "data", "rendition", "metric", "value", "count"]
CURVE_COLUMNS = [
    *("phase", "experiment", "variant", "profile", "run", "module", "replicate"),
    *("epoch", "step", "lr", "loss", "val_loss", "val_top1", "val_top5"),
]


@dataclass(frozen=True)
class Collected:
    """What a study measured."""

    runs: pd.DataFrame
    """A row for each run and replicate: see `m2mkd.results.runs_table.COLUMNS`."""
    measurements: pd.DataFrame
    """A row for each number: experiment, variant, profile, run, replicate, split (iid, ood, fewshot, graph), data, rendition (empty:
    all images), metric (top1, top5, loss, classes, left_out, density), value (shares from 0 to 1), count (images)."""
    curves: pd.DataFrame
    """A row for each epoch of each training: see CURVE_COLUMNS; ``module`` is missing where a whole network trains."""
    records: tuple[Record, ...]
    problems: dict[tuple[str, int], str] = field(default_factory=dict)
    """Why a run, by id and slot, is left out. Empty unless a part of a study was asked for."""

    @cached_property
    def numbers(self) -> Numbers:
        """The measurements, to be looked up by row."""
        return Numbers(self.measurements)


def collect(study: Study, *, partial: bool = False) -> Collected:
    """Read every run of a study that measures something.

    Parameters
    ----------
    study
        The graph of runs.
    partial
        Leave out what is missing or wrong, and all that builds on it, in place of refusing it.

    Raises
    ------
    InputError
        If one is missing, damaged, or of another configuration than the study's, unless ``partial``; names the file.
    """
    problems: dict[tuple[str, int], str] = {}
    records = tuple(_usable_records(study, problems) if partial else read_records(study, measures))
    by_run: dict[str, list[Record]] = {}
    for record in records:
        by_run.setdefault(record.run.id, []).append(record)
    measured: list[dict[str, Any]] = []
    for row in study.rows:
        for record in _counted(study, row, [record for run_id in row.measured for record in by_run.get(run_id, ())]):
            try:
                measured += _measurements(row, record)
            except (KeyError, TypeError) as error:
                folder = study.folder(record.run.id)
                where = f"{folder}/{record.slot}/metrics.json"
                raise InputError(f"{where}: no measurement {error}; remove {folder} and run the workflow again") from None
    measurements = pd.DataFrame(measured, columns=MEASUREMENT_COLUMNS).astype({"count": "Int64", "value": "float64"})
    return Collected(runs_frame(study, records), measurements, _curves(study, records), records, problems)


def measures(run: Run) -> bool:
    """Whether a run measures something."""
    return METRICS in run.config.OUTPUTS


def _usable_records(study: Study, problems: dict[tuple[str, int], str]) -> Iterator[Record]:
    """What is there and right, upstream before downstream; ``problems`` takes the rest."""
    for run in study.runs.values():
        above = [study.runs[run_id] for ids in run.upstream.values() for run_id in ids]
        for slot in range(len(run.config.replicates)):
            inherited = (problems.get((parent.id, study.slot_of(parent, slot))) for parent in above)
            problem = next((reason for reason in inherited if reason), None)
            if problem is None and measures(run):
                try:
                    yield read_record(study, run, slot)
                except InputError as error:
                    problem = str(error).partition("; ")[0]
            if problem is not None:
                problems[run.id, slot] = problem


def _counted(study: Study, row: Row, records: list[Record]) -> list[Record]:
    """Records of a row; of the accuracy of an imported student only one, for it has the same weights under every seed."""
    imported = isinstance(study.runs[row.trained[0]].config, ImportWeights)
    return records[:1] if imported and records and isinstance(records[0].run.config, Evaluate) else records


def data_name(data: Data) -> str:
    """A data set as people write it."""
    return f"{data.name}@{data.image_size}"


def _measurements(row: Row, record: Record) -> Iterator[dict[str, Any]]:
    """Numbers of one record, as one row of the tables uses them."""
    config, metrics = record.run.config, record.metrics
    base = {**place_of(row)._asdict(), "run": record.run.id, "replicate": record.replicate, "rendition": ""}
    if isinstance(config, TrainProbe):
        base |= {"split": "fewshot", "data": data_name(config.data)}
        for name in ("val_top1", "val_top5", "val_loss"):
            yield base | {"metric": name.removeprefix("val_"), "value": metrics[name]}
    elif isinstance(config, Evaluate | EvaluateTeacher):
        yield from _accuracies(base | {"split": "iid", "data": data_name(config.data)}, metrics)
        if graph := metrics.get("diagnostics", {}).get("graph"):
            yield base | {"split": "graph", "data": data_name(config.data), "metric": "density", "value": graph["density"]}
        for data in config.ood if isinstance(config, Evaluate) else ():
            found = metrics["ood"][data.name]
            named = base | {"split": "ood", "data": data_name(data)}
            yield from _accuracies(named, found)
            for name in ("classes", "left_out"):
                yield named | {"metric": name, "value": found[name]}
            for rendition, top1 in found["renditions"].items():
                yield named | {"rendition": rendition, "metric": "top1", "value": top1}


def _accuracies(base: dict[str, Any], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("top1", "top5", "loss"):
        yield base | {"metric": name, "value": found[name], "count": found["count"]}


def _curves(study: Study, records: Iterable[Record]) -> pd.DataFrame:
    home = homes(study)
    lines = [
        {
            "phase": record.run.phase,
            **home[record.run.id]._asdict(),
            "run": record.run.id,
            "module": getattr(record.run.config, "index", None),
            "replicate": record.replicate,
            **line,
        }
        for record in records
        for line in record.curves
    ]
    frame = pd.DataFrame(lines, columns=CURVE_COLUMNS)
    return frame.astype({"module": "Int64"} | dict.fromkeys(["lr", "loss", "val_loss", "val_top1", "val_top5"], "float64"))
