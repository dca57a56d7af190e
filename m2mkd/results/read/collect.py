"""Every finished run of a study as tidy frames."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from m2mkd.errors import InputError
from m2mkd.results.read.lookup import Numbers
from m2mkd.results.read.records import Record, read_record, read_records
from m2mkd.results.read.runs_table import runs_frame
from m2mkd.study.lineage import display_rows, served_rows
from m2mkd.study.phases import Evaluate, ImportWeights
from m2mkd.study.run import Row, RowName
from m2mkd.study.study import Study

MEASUREMENT_COLUMNS = ["experiment", "variant", "profile", "run", "seed", "split", "data", "rendition", "metric", "value", "count"]
EPOCH_COLUMNS = ["epoch", "step", "lr", "loss", "val_loss", "val_top1", "val_top5"]
CURVE_COLUMNS = ["phase", "experiment", "variant", "profile", "run", "module", "seed", *EPOCH_COLUMNS]


@dataclass(frozen=True)
class Collected:
    """What a study measured."""

    runs: pd.DataFrame
    """A row for each run: see `m2mkd.results.read.runs_table.COLUMNS`."""
    measurements: pd.DataFrame
    """A row for each number: experiment, variant, profile, run, seed, split (iid, ood, fewshot, graph), data, rendition (empty:
    all images), metric (top1, top5, loss, classes, left_out, density), value (shares from 0 to 1), count (images)."""
    curves: pd.DataFrame
    """A row for each epoch of each training: see CURVE_COLUMNS; ``module`` is missing where a whole network trains."""
    records: tuple[Record, ...]
    problems: dict[str, str] = field(default_factory=dict)
    """Why a run, by id, is left out. Empty unless a part of a study was asked for."""

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
    problems: dict[str, str] = {}
    records = tuple(_usable_records(study, problems) if partial else read_records(study, lambda run: run.config.measures()))
    by_run = {record.run.id: record for record in records}
    measured: list[dict[str, Any]] = []
    for row in study.rows:
        for record in _counted(study, row, [by_run[run_id] for run_id in row.measured if run_id in by_run]):
            where = row.name._asdict() | {"run": record.run.id, "seed": record.run.seed}
            measured += [where | asdict(one) for one in record.measurements]
    measurements = pd.DataFrame(measured, columns=MEASUREMENT_COLUMNS).astype({"count": "Int64", "seed": "Int64", "value": "float64"})
    served = served_rows(study)
    home = display_rows(study, served)
    return Collected(runs_frame(records, home, served), measurements, _curves(records, home), records, problems)


def _usable_records(study: Study, problems: dict[str, str]) -> Iterator[Record]:
    """What is there and right, upstream before downstream; ``problems`` takes the rest."""
    for run in study.runs.values():
        problem = next((problems[run_id] for run_id in run.parents if run_id in problems), None)
        if problem is None and run.config.measures():
            try:
                yield read_record(study, run)
            except InputError as error:
                problem = str(error).partition("; ")[0]
        if problem is not None:
            problems[run.id] = problem


def _counted(study: Study, row: Row, records: list[Record]) -> list[Record]:
    """Records of a row; of the accuracy of an imported student only one, for it has the same weights under every seed."""
    imported = isinstance(study.runs[row.trained[0]].config, ImportWeights)
    return records[:1] if imported and records and isinstance(records[0].run.config, Evaluate) else records


def _curves(records: Iterable[Record], home: Mapping[str, RowName]) -> pd.DataFrame:
    lines: list[tuple[Any, ...]] = []
    for record in records:
        run = record.run
        where = run.phase, *home[run.id], run.id, getattr(run.config, "index", None), run.seed
        lines += [(*where, *map(line.get, EPOCH_COLUMNS)) for line in record.curves]
    frame = pd.DataFrame(lines, columns=CURVE_COLUMNS)
    return frame.astype({"module": "Int64", "seed": "Int64"} | dict.fromkeys(["lr", "loss", "val_loss", "val_top1", "val_top5"], "float64"))
