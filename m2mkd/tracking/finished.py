"""MLflow entries of a finished study: the study, the rows of its tables, and each seed of each run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2mkd.files import sha256
from m2mkd.results.judge.results import Results
from m2mkd.results.read.records import Record
from m2mkd.statistics import mean
from m2mkd.study.files import PlannedRun
from m2mkd.study.keys import digest
from m2mkd.study.lineage import title_of
from m2mkd.study.phase import METRICS, RECORD
from m2mkd.study.phases import TrainStudent
from m2mkd.study.run import Row, RowName
from m2mkd.study.study import Study
from m2mkd.tracking.entry import (
    NAME_TAG,
    NOTE_TAG,
    RECORD_TAG,
    STUDIES_TAG,
    STUDY_TAG,
    Entry,
    Point,
    curve_points,
    flat,
    leaves,
    points,
    row_tags,
    run_entry,
    tracked,
)
from m2mkd.tracking.figures import row_figures
from m2mkd.tracking.names import distinct, row_label
from m2mkd.tracking.notes import accuracy_texts, row_note, run_note, study_note
from m2mkd.tracking.registry import model_artifacts

APART = ("diagnostics", "confusion", "per_class", "precision_recall", "examples")
"""Measurements that are not single numbers: they are drawn, and are in the artifact ``metrics.json``."""
STUDENT = TrainStudent.model_fields["phase"].default
IMAGE_TAGS = {"image": "image", "image_digest": "digest", "image_sbom": "sbom"}
"""Tags of the image, and their names in a run's record; a run on the host has none."""
UNITS = {
    "seconds": ("seconds", 1.0),
    "peak_memory_bytes": ("peak_memory_gib", 2.0**30),
    "peak_gpu_memory_bytes": ("peak_gpu_memory_gib", 2.0**30),
    "gpu_joules": ("gpu_energy_wh", 3600.0),
}
"""Costs in a run's record, with their names in MLflow and the units that people read."""


def study_entry(study: Study, records: Sequence[Record], tables: list[Path]) -> Entry:
    """Entry of a study, with its tables."""
    start, end = _span(records)
    tags = {
        "level": "study",
        "key": study.key,
        RECORD_TAG: digest([sha256(path) for path in tables]),
        "scale": study.scale_name,
    }
    return Entry(
        f"tables, {study.scale.title}",
        tags,
        study_note(study, len(records)),
        artifacts={path.name: path for path in tables},
        start=start,
        end=end,
        earlier={NAME_TAG: f"study {study.key}", NOTE_TAG: study.scale.title},
    )


def row_labels(study: Study, grouped: Mapping[RowName, Sequence[Record]]) -> dict[RowName, str]:
    """Labels of the rows, by row; each is of one row alone.

    Parameters
    ----------
    study
        The study.
    grouped
        Runs that are shown below each row, also below those of teachers that are not rows of the tables.
    """
    configs = {row.name: study.runs[row.trained[0]].config for row in study.rows}
    configs |= {name: members[0].run.config for name, members in grouped.items() if name not in configs}
    return distinct({name: row_label(name, config) for name, config in configs.items()})


def _row_of(study: Study, row_name: RowName) -> Row | None:
    return next((row for row in study.rows if row.name == row_name), None)


def own_records(results: Results, row_name: RowName) -> list[Record]:
    """Trainings and measurements that a row's numbers come from, including those that are shown below another row."""
    row = _row_of(results.study, row_name)
    wanted = {*row.trained, *row.measured} if row else set()
    return [record for record in results.records if record.run.id in wanted]


def row_entry(
    study: Study, row_name: RowName, label: str, members: list[Record], own: list[Record], accuracies: Mapping[str, float]
) -> Entry:
    """Entry of a row of the tables; a teacher that only lends its modules has no numbers of its own.

    Parameters
    ----------
    study, row_name, label
        The row, and its name in MLflow.
    members
        Runs that are shown below it.
    own
        Runs that its numbers come from.
    accuracies
        Means, deviations and intervals over its seeds, by name.
    """
    row = _row_of(study, row_name)
    trained = row.trained if row else tuple(record.run.id for record in members if record.run.phase == "assemble_teacher")
    trained = trained or (members[0].run.id,)  # the teacher, or only its meta model, was imported
    seeds = len(trained)
    start, end = _span(members or own)
    curves = _curves_by_seed([record for record in own if record.run.id in trained])
    learned = [data for run_id in trained[:1] for data in study.runs[run_id].config.data_sets]
    seen = [data for run_id in (row.measured[:1] if row else ()) for data in study.runs[run_id].config.data_sets]
    digests = {name: found for record in [*members, *own] for name, found in record.data.items()}
    entry = Entry(
        name=label,
        note=row_note(study, row_name, label, seeds, accuracies, [*learned, *seen]),
        tags={
            "level": "row",
            "key": digest([*row_name, trained]),
            RECORD_TAG: digest([record.digest for record in [*members, *own]]),
            "row": str(row_name),
            STUDY_TAG: study.key,
            STUDIES_TAG: study.key,
            **row_tags(study.scale_name, row_name),
            **accuracy_texts(accuracies),
            **_origin(members or own),
        },
        params=flat(study.runs[trained[0]].config.model_dump(mode="json", exclude={"seed"})) | {"seeds": str(seeds)},
        # MLflow's comparison opens on the number that was stored first.
        points=points("final/", accuracies),
        # A row of a transfer experiment shows nothing that its student's does not.
        artifacts=dict(row_figures(row_name.variant, curves, members)) if members else {},
        datasets=(*tracked(learned, digests, "training"), *tracked([data for data in seen if data not in learned], digests, "evaluation")),
        start=start,
        end=end,
        earlier={NAME_TAG: f"{row_name.experiment}/{row_name.variant}", NOTE_TAG: title_of(study, row_name.experiment)},
    )
    entry.points += [Point(name, mean(values), epoch) for name, epochs in curves.items() for epoch, values in epochs.items()]
    entry.points += points("cost/", _total(members))
    return entry


def record_entry(study: Study, planned: PlannedRun, record: Record, row: str) -> Entry:
    """Entry of a finished run below a row of that label."""
    run, folder = record.run, planned.folder
    entry = run_entry(planned, record.data, row)
    entry.note = run_note(study, run, entry.name)
    entry.tags |= {RECORD_TAG: record.digest, **_origin([record]), **_environment(record.provenance)}
    entry.start, entry.end = _span([record])
    entry.points = curve_points(record.curves)
    last = record.curves[-1]["epoch"] if record.curves else 0
    numbers = leaves({name: value for name, value in record.metrics.items() if name not in APART})
    entry.points += points("final/", {name: value for name, value in numbers if value is not None}, last)
    tops = [(line["val_top1"], line["epoch"]) for line in record.curves if "val_top1" in line]
    if tops:
        best, epoch = max(tops, key=lambda top: (top[0], -top[1]))
        entry.points += points("best/", {"val_top1": best}, epoch)
    entry.points += points("cost/", _costs(record.provenance), last)
    entry.artifacts = {name: folder / name for name in (RECORD, METRICS) if name in (RECORD, *run.config.OUTPUTS)}
    if run.phase == STUDENT:
        entry.artifacts |= model_artifacts(folder, record)
    return entry


def _curves_by_seed(records: Iterable[Record]) -> dict[str, dict[int, list[float]]]:
    """Values of the seeds by name and epoch, for epochs in which every seed has one."""
    found: dict[str, dict[int, list[float]]] = {}
    trained = [record.curves for record in records]
    for point in (point for lines in trained for point in curve_points(lines)):
        found.setdefault(point.name, {}).setdefault(point.step, []).append(point.value)
    return {
        name: whole
        for name, epochs in found.items()
        if (whole := {epoch: values for epoch, values in epochs.items() if len(values) == len(trained)})
    }


def version_tags(student: Record, own: Iterable[Record]) -> dict[str, str]:
    """Measurements of one seed's student, as tags of its version in the registry."""
    found: dict[str, str] = {}
    for record in own:
        if student.run.id in record.run.upstream.get("student", ()):
            numbers = {name: value for name, value in record.metrics.items() if name not in APART}
            found |= {f"final/{name}": f"{value:.6g}" for name, value in leaves(numbers)}
    return found


def _costs(provenance: dict[str, Any]) -> dict[str, float]:
    """Costs that a run recorded."""
    return {name: provenance[key] / unit for key, (name, unit) in UNITS.items() if provenance.get(key) is not None}


def _total(records: Iterable[Record]) -> dict[str, float]:
    """Seconds and energy of several runs; peaks do not add up."""
    total: dict[str, float] = {}
    for record in records:
        for name, value in _costs(record.provenance).items():
            if not name.startswith("peak"):
                total[name] = total.get(name, 0.0) + value
    return total


def _environment(provenance: dict[str, Any]) -> dict[str, str]:
    """Machine and packages that a run was computed with, as tags."""
    found = {
        name: str(provenance[name]) for name in ("git_dirty", "hardware", "machine", "system", "python") if provenance.get(name) is not None
    }
    return found | {f"package.{name}": str(version) for name, version in provenance.get("packages", {}).items()}


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
    known = [record.provenance for record in records]
    spans = [(one["started"], one.get("ended", one["started"] + one["seconds"])) for one in known]
    return round(1000 * min(start for start, _ in spans)), round(1000 * max(end for _, end in spans))
