"""Replaying the finished runs of a study into MLflow.

The files of the runs are the truth; the store is a view on them, which this one writer fills afterwards and can fill again.
One MLflow experiment holds a scale. In it stand

- a run for the study, with the tables as artifacts;
- a run for each row of the tables (experiment, variant, profile) with mean and standard deviation over seeds;
- below it a run for each seed of each phase that the row depends on.

Each run of the workflow is logged once: a teacher's below the row of its experiment, one that several rows share (the NAC
modules of all priors) below the first of them in the study. Its tag ``used_by`` names all rows of the study synchronised last
that need it. ``final/`` holds what a run measured at its end, which is what the tables report, and ``best/`` the best epoch.
What an evaluation says of the use of the network's parts is a figure among its artifacts; so is what a training says in the course
of its epochs, where it does, which is among its metrics too.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from m2mkd.config.phases import METRICS, digest
from m2mkd.config.study import Study
from m2mkd.errors import InputError
from m2mkd.files import sha256, write_atomically, write_json
from m2mkd.results.collect import Collected, collect
from m2mkd.results.lineage import Place, homes, place_of, served_rows
from m2mkd.results.records import Record, read_records
from m2mkd.results.tables import final_metrics
from m2mkd.tracking.store import Entry, Store, open_store, store_uri, without_credentials

if TYPE_CHECKING:
    from mlflow.entities import Metric

TAG_LENGTH = 5000
"""Longer tag values are cut; MLflow refuses them at some point."""
IMAGE_TAGS = {"image": "image", "image_digest": "digest", "image_sbom": "sbom"}
"""Tags, and what a run's record calls them; a run on the host has none."""


def sync(study: Study) -> None:
    """Bring every finished run of a study into the MLflow store.

    A run that is there already, complete and from the same record, is left alone; one that an interruption left half-written, or
    whose files have changed since, is deleted and replayed. At the end ``tracking.json`` says how many runs of the workflow the
    store holds.

    Raises
    ------
    InputError
        If a run or the tables are missing or of another configuration, or the store cannot be used.
    """
    collected = collect(study)
    records = [*read_records(study, lambda run: METRICS not in run.config.OUTPUTS), *collected.records]
    tables = _tables(study)
    home = homes(study)
    with open_store(f"m2mkd/{study.scale_name}") as store:
        _put_study(store, study, records, tables)
        grouped: dict[Place, list[Record]] = {place_of(row): [] for row in study.rows}
        for record in records:
            grouped.setdefault(home[record.run.id], []).append(record)
        served = {run_id: "; ".join(str(place_of(row)) for row in rows) for run_id, rows in served_rows(study).items()}
        for place, members in grouped.items():
            parent = _row_entry(study, place, members, collected)
            parent_id = store.put(parent)
            for record in members:
                child = _run_entry(study, place, record, served[record.run.id], parent_id)
                child_id = store.put(child, replace=True)
                if not store.is_finished(child):
                    _put_figures(store, child_id, record)
                store.finish(child_id, child)
            store.finish(parent_id, parent)
    write_json(Path(study.root) / "tracking.json", {"study": study.key, "store": without_credentials(store_uri()), "runs": len(records)})


def _tables(study: Study) -> list[Path]:
    folder = Path(study.root) / "tables"
    if not (folder / f"study-{study.key}.json").is_file():
        raise InputError(f"{folder}: not the tables of study {study.key}; run 'm2mkd compile' with the same arguments first")
    return [*(path for path in sorted(folder.iterdir()) if not path.name.startswith(".")), Path(study.root) / "metrics.json"]


def _put_study(store: Store, study: Study, records: Iterable[Record], tables: list[Path]) -> None:
    entry = Entry(
        name=f"study {study.key}",
        tags={
            "level": "study",
            "key": study.key,
            "record": digest([sha256(path) for path in tables]),
            "scale": study.scale_name,
            "mlflow.note.content": study.scale.title,
        },
    )
    entry.start, entry.end = _span(records)
    run_id = store.put(entry)
    if not store.is_finished(entry):
        store.put_artifacts(run_id, tables)
    store.finish(run_id, entry)


def _put_figures(store: Store, run_id: str, record: Record) -> None:
    """Draw what the run says of the use of its network's parts: at its end, and over its epochs."""
    from m2mkd.results.graph_figures import diagnosis_figure, series_figure
    from m2mkd.results.svg import write_png

    diagnosis = record.metrics.get("diagnostics")
    figures = {
        "diagnostics": diagnosis_figure({f"seed {record.replicate}": [diagnosis]}) if diagnosis else None,
        "diagnostics-by-epoch": series_figure(record.curves),
    }
    with TemporaryDirectory() as folder:
        for name, figure in figures.items():
            if figure is not None:
                path = Path(folder) / f"{name}.png"
                write_atomically(path, partial(write_png, figure))
                store.put_artifacts(run_id, [path])


def _row_entry(study: Study, place: Place, members: list[Record], collected: Collected) -> Entry:
    """One row of the tables; a teacher that only lends its modules has no numbers of its own."""
    row = next((row for row in study.rows if place_of(row) == place), None)
    trained = row.trained if row else tuple(record.run.id for record in members if record.run.phase == "assemble_teacher")
    trained = trained or (members[0].run.id,)  # the teacher, or only its meta model, was imported
    measured = set(row.measured if row else ())
    seeds = sum(len(study.runs[run_id].config.replicates) for run_id in trained)
    own = [record for record in collected.records if record.run.id in {*trained, *measured}]
    entry = Entry(
        name=f"{place.experiment}/{place.variant}",
        tags={
            "level": "row",
            "key": digest([*place, trained]),
            "record": digest([study.key, [record.digest for record in [*members, *own]]]),
            "row": str(place),
            **_names(study, place),
            "study": study.key,
            **_origin(members or own),
        },
        params=flat(study.runs[trained[0]].config.model_dump(mode="json", exclude={"replicates"})) | {"seeds": str(seeds)},
    )
    entry.start, entry.end = _span(members or own)
    if row:
        numbers = final_metrics(study, collected)[row.experiment][row.variant][row.profile]
        entry.metrics = _metrics({f"final/{name}": value for name, value in numbers.items()}, entry.end, 0)
    return entry


def _run_entry(study: Study, place: Place, record: Record, used_by: str, parent_id: str) -> Entry:
    """One seed of one run."""
    config: Any = record.run.config
    module = f" module {config.index}" if getattr(config, "index", None) is not None else ""
    entry = Entry(
        name=f"{record.run.phase}{module} seed {record.replicate}",
        tags={
            "level": "run",
            "key": record.run.key,
            "slot": str(record.slot),
            "record": record.digest,
            "phase": record.run.phase,
            "seed": str(record.replicate),
            **_names(study, place),
            "used_by": used_by[:TAG_LENGTH],
            "folder": f"{study.folder(record.run.id)}/{record.slot}",
            "mlflow.parentRunId": parent_id,
            **_origin([record]),
        },
        params=flat(config.model_dump(mode="json")),
    )
    entry.start, entry.end = _span([record])
    for line in record.curves:
        values = {name: value for name, value in line.items() if name not in ("epoch", "step")}
        entry.metrics += _metrics(values, entry.end, line["epoch"])
    last = record.curves[-1]["epoch"] if record.curves else 0
    numbers = {name: value for name, value in record.metrics.items() if name != "diagnostics"}
    entry.metrics += _metrics({f"final/{name}": value for name, value in _leaves(numbers)}, entry.end, last)
    tops = [(line["val_top1"], line["epoch"]) for line in record.curves if "val_top1" in line]
    if tops:
        best, epoch = max(tops, key=lambda top: (top[0], -top[1]))
        entry.metrics += _metrics({"best/val_top1": best}, entry.end, epoch)
    return entry


def _names(study: Study, place: Place) -> dict[str, str]:
    return {"scale": study.scale_name, **place._asdict()}


def _origin(records: Sequence[Record]) -> dict[str, str]:
    """Git commits of the records, under the name that MLflow's own pages show too, and images that they were computed in."""
    commits = _distinct(record.provenance.get("git_commit") for record in records)
    images = [record.provenance.get("container") or {} for record in records]
    tags = {"git_commit": commits, "mlflow.source.git.commit": commits}
    tags |= {tag: _distinct(image.get(name) for image in images) for tag, name in IMAGE_TAGS.items()}
    return {name: value for name, value in tags.items() if value}


def _distinct(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))


def _span(records: Iterable[Record]) -> tuple[int, int]:
    """Milliseconds from 1970 to the first start and to the last end."""
    spans = [(record.provenance["started"], record.provenance["started"] + record.provenance["seconds"]) for record in records]
    return round(1000 * min(start for start, _ in spans)), round(1000 * max(end for _, end in spans))


def _metrics(values: Mapping[str, float], timestamp: int, step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    return [Metric(re.sub(r"[^\w\-. :/]", "-", name), float(value), timestamp, step) for name, value in values.items()]


def flat(content: Mapping[str, Any]) -> dict[str, str]:
    """Nested configuration as dotted names and text; a list is JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in _leaves(content, ".")}


def _leaves(content: Mapping[str, Any], separator: str = "/", prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, separator, f"{prefix}{name}{separator}")
        else:
            yield f"{prefix}{name}", value
