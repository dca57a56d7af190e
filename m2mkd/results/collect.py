"""Every finished run of a study as tidy frames."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from m2mkd.errors import InputError
from m2mkd.results.lookup import Numbers
from m2mkd.results.records import Record, read_record, read_records
from m2mkd.results.runs_table import runs_frame
from m2mkd.study.lineage import Place, display_rows, place_of, served_rows
from m2mkd.study.phases import METRICS, Evaluate, ImportWeights
from m2mkd.study.study import Row, Run, Study

MEASUREMENT_COLUMNS = ["experiment", "variant", "profile", "run", "replicate", "split", "data", "rendition", "metric", "value", "count"]
EPOCH_COLUMNS = ["epoch", "step", "lr", "loss", "val_loss", "val_top1", "val_top5"]
CURVE_COLUMNS = ["phase", "experiment", "variant", "profile", "run", "module", "replicate", *EPOCH_COLUMNS]


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
            place = place_of(row)._asdict() | {"run": record.run.id, "replicate": record.replicate}
            measured += [place | line for line in record.measurements]
    measurements = pd.DataFrame(measured, columns=MEASUREMENT_COLUMNS).astype({"count": "Int64", "value": "float64"})
    served = served_rows(study)
    home = display_rows(study, served)
    return Collected(runs_frame(records, home, served), measurements, _curves(records, home), records, problems)


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


def _curves(records: Iterable[Record], home: Mapping[str, Place]) -> pd.DataFrame:
    lines: list[tuple[Any, ...]] = []
    for record in records:
        place = record.run.phase, *home[record.run.id], record.run.id, getattr(record.run.config, "index", None), record.replicate
        lines += [(*place, *map(line.get, EPOCH_COLUMNS)) for line in record.curves]
    frame = pd.DataFrame(lines, columns=CURVE_COLUMNS)
    return frame.astype({"module": "Int64"} | dict.fromkeys(["lr", "loss", "val_loss", "val_top1", "val_top5"], "float64"))
