"""Contents of one MLflow run, made from the study and the files of a run alone. This module does not need MLflow."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from m2mkd.config.load import datasets
from m2mkd.study.data import Data
from m2mkd.study.files import PlannedRun
from m2mkd.study.keys import digest
from m2mkd.study.phase import CURVES
from m2mkd.study.run import RowName
from m2mkd.tracking.names import row_label, run_label

Artifact = Path | Callable[[BinaryIO], object]
"""An existing file, or a function that writes one."""
IDENTITY = ("level", "key")
"""Tags that identify a run."""
RECORD_TAG = "record"
"""Tag with the digest of everything that a run was made from; a run that is still mirrored from its training has none."""
PARENT_TAG = "mlflow.parentRunId"
STUDY_TAG, STUDIES_TAG = "study", "studies"
"""Tags of a row: the study that wrote it, and all studies that have it."""
NAME_TAG, NOTE_TAG = "mlflow.runName", "mlflow.note.content"
"""Tags that MLflow's pages show as a run's name and description. People edit both."""
WRITTEN = {NAME_TAG: "written.name", NOTE_TAG: "written.note"}
"""Tags with the digests of the name and the description that were written here: what has another digest was written by a person."""


class Point(NamedTuple):
    """Number of a run, identified by the run, name and step."""

    name: str
    value: float
    step: int


class TrackedDataset(NamedTuple):
    """A prepared set that a run read."""

    data: Data
    digest: str
    """Digest of its manifest."""
    context: str
    """``training`` or ``evaluation``."""


@dataclass
class Entry:
    """Contents of one MLflow run."""

    name: str
    tags: dict[str, str]
    """Among others ``level`` and ``key``, which identify it, and ``record``."""
    note: str = ""
    """Description."""
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    datasets: tuple[TrackedDataset, ...] = ()
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """By their path among the run's artifacts."""
    start: int = 0
    end: int = 0
    """Milliseconds since 1970."""
    earlier: dict[str, str] = field(default_factory=dict)
    """Name and description that earlier versions wrote, by tag."""

    @property
    def identity(self) -> tuple[str, ...]:
        """Values that a run in the store has too if it is the same run."""
        return identity_of(self.tags)

    @property
    def texts(self) -> dict[str, str]:
        """Name and description, by tag."""
        return {NAME_TAG: self.name, NOTE_TAG: self.note} if self.note else {NAME_TAG: self.name}

    @property
    def all_tags(self) -> dict[str, str]:
        """Tags with name and description, and the marks that these were written here."""
        return self.tags | written(self.texts)


def written(texts: Mapping[str, str]) -> dict[str, str]:
    """Names and descriptions with the marks that they were written here."""
    return {**texts, **{WRITTEN[name]: digest([text]) for name, text in texts.items()}}


def rewritten(entry: Entry, there: Mapping[str, str]) -> dict[str, str]:
    """Name and description to change in a run that is there, with their marks; those that a person wrote stay.

    Parameters
    ----------
    entry
        The run as it should be.
    there
        Tags of the run in the store.
    """
    own = {
        name: text
        for name, text in entry.texts.items()
        if there.get(name, "") in ("", entry.earlier.get(name)) or there.get(WRITTEN[name]) == digest([there[name]])
    }
    return {name: value for name, value in written(own).items() if there.get(name) != value}


def identity_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Level and key of a run, from its tags."""
    return tuple(tags.get(name, "") for name in IDENTITY)


def run_entry(planned: PlannedRun, digests: Mapping[str, str], row: str | None = None) -> Entry:
    """A run as far as its plan tells, which the plan of an unfinished training does too.

    Parameters
    ----------
    planned
        The run.
    digests
        Digests of the manifests of its data sets, by name@size.
    row
        Label of its row; none: the label of that row alone, without a look at the other rows of the study.
    """
    run, config = planned.run, planned.run.config
    index = getattr(config, "index", None)
    earlier = f"{run.phase}{'' if index is None else f' module {index}'}{'' if run.seed is None else f' seed {run.seed}'}"
    alone = run_label(row_label(planned.row, config), run)
    context = "training" if CURVES in config.OUTPUTS else "evaluation"
    return Entry(
        name=run_label(row, run) if row else alone,
        tags={
            "level": "run",
            "key": run.key,
            "phase": run.phase,
            **({} if run.seed is None else {"seed": str(run.seed)}),
            "folder": planned.folder.as_posix(),
            **row_tags(planned.scale_name, planned.row),
        },
        params=flat(config.model_dump(mode="json")),
        datasets=tracked(config.data_sets, digests, context),
        earlier={NAME_TAG: earlier},
    )


def tracked(data_sets: Iterable[Data], digests: Mapping[str, str], context: str) -> tuple[TrackedDataset, ...]:
    """Prepared sets whose digests are known."""
    return tuple(TrackedDataset(data, digests[str(data)], context) for data in data_sets if str(data) in digests)


def row_tags(scale_name: str, row_name: RowName) -> dict[str, str]:
    """Names of a row of the tables."""
    return {"scale": scale_name, **row_name._asdict()}


def curve_points(lines: list[dict[str, Any]]) -> list[Point]:
    """Numbers of ``metrics.jsonl``; a step is an epoch."""
    return [
        point
        for line in lines
        for point in points("", {name: value for name, value in line.items() if name not in ("epoch", "step")}, line["epoch"])
    ]


def points(prefix: str, values: Mapping[str, float], step: int = 0) -> list[Point]:
    """Numbers of one step, with names that MLflow accepts."""
    return [Point(re.sub(r"[^\w\-. :/]", "-", f"{prefix}{name}"), float(value), step) for name, value in values.items()]


def origin(data: Data) -> dict[str, Any]:
    """Folder of a prepared set, and the files that it was made from."""
    source = datasets().get(data.name)
    files = [file.url or file.name for file in source.files] if source else []
    return {"folder": data.folder, "files": files}


def flat(content: Mapping[str, Any]) -> dict[str, str]:
    """Nested configuration as text by dotted name; a list is JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in leaves(content, ".")}


def leaves(content: Mapping[str, Any], separator: str = "/", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values in nested mappings, with the levels of a name joined by the separator."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from leaves(value, separator, f"{prefix}{name}{separator}")
        else:
            yield f"{prefix}{name}", value
