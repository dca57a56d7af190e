"""Every finished run of a study as tidy frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from m2mkd.config.phases import METRICS, Data, Evaluate, EvaluateTeacher, TrainProbe
from m2mkd.config.study import Row, Study
from m2mkd.errors import InputError
from m2mkd.results.lineage import homes, place_of, served_rows
from m2mkd.results.records import Record, read_records

MEASUREMENT_COLUMNS = ["experiment", "variant", "profile", "run", "replicate", "split", "data", "rendition", "metric", "value", "count"]
CURVE_COLUMNS = [
    *("phase", "experiment", "variant", "profile", "run", "module", "replicate"),
    *("epoch", "step", "lr", "loss", "val_loss", "val_top1", "val_top5"),
]


@dataclass(frozen=True)
class Collected:
    """What a study measured."""

    runs: pd.DataFrame
    """A row for each run and replicate: run, phase, key, slot, replicate, experiment, variant and profile that it is shown under,
    used_by (all rows that need it), git_commit, torch, and seconds, the only column that two equal runs do not share."""
    measurements: pd.DataFrame
    """A row for each number: experiment, variant, profile, run, replicate, split (iid, ood, fewshot), data, rendition (empty: all
    images), metric (top1, top5, loss, classes, left_out), value (shares from 0 to 1), count (images)."""
    curves: pd.DataFrame
    """A row for each epoch of each training: see CURVE_COLUMNS; ``module`` is missing where a whole network trains."""
    records: tuple[Record, ...]


def collect(study: Study) -> Collected:
    """Read every run of a study that measures something.

    Raises
    ------
    InputError
        If one is missing, damaged, or of another configuration than the study's; names the file.
    """
    records = tuple(read_records(study, lambda run: METRICS in run.config.OUTPUTS))
    by_run: dict[str, list[Record]] = {}
    for record in records:
        by_run.setdefault(record.run.id, []).append(record)
    measured: list[dict[str, Any]] = []
    for row in study.rows:
        for record in (record for run_id in row.measured for record in by_run[run_id]):
            try:
                measured += _measurements(row, record)
            except (KeyError, TypeError) as error:
                folder = study.folder(record.run.id)
                where = f"{folder}/{record.slot}/metrics.json"
                raise InputError(f"{where}: no measurement {error}; remove {folder} and run the workflow again") from None
    measurements = pd.DataFrame(measured, columns=MEASUREMENT_COLUMNS).astype({"count": "Int64", "value": "float64"})
    return Collected(_runs(study, records), measurements, _curves(study, records), records)


def data_name(data: Data) -> str:
    """A data set as people write it."""
    return f"{data.name}@{data.image_size}"


def _runs(study: Study, records: Iterable[Record]) -> pd.DataFrame:
    home, served = homes(study), served_rows(study)
    return pd.DataFrame(
        {
            "run": record.run.id,
            "phase": record.run.phase,
            "key": record.run.key,
            "slot": record.slot,
            "replicate": record.replicate,
            **home[record.run.id]._asdict(),
            "used_by": "; ".join(str(place_of(row)) for row in served[record.run.id]),
            "git_commit": record.provenance.get("git_commit"),
            "torch": record.provenance.get("packages", {}).get("torch"),
            "seconds": record.provenance.get("seconds"),
        }
        for record in records
    )


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
