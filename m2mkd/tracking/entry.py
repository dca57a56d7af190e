"""What one MLflow run is to hold, made from the study and the files of a run alone; nothing in here needs MLflow."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from m2mkd.config.load import datasets
from m2mkd.study.lineage import Place
from m2mkd.study.phases import Data, Evaluate, EvaluateTeacher, MeasureHybrid
from m2mkd.study.study import Run, Study

Artifact = Path | Callable[[BinaryIO], object]
"""A file that is there, or what writes one."""
RECORD_TAG = "record"
"""Tag with the digest of all that a run was made from; a run that is still mirrored from its training has none."""

NOTE_TAG = "mlflow.note.content"
"""Tag that MLflow's pages show as a run's description."""


class Point(NamedTuple):
    """One number of one run. With its run, name and step identify it."""

    name: str
    value: float
    step: int


class TrackedDataset(NamedTuple):
    """A prepared set that a run saw."""

    data: Data
    digest: str
    """Of its manifest."""
    context: str
    """``training`` or ``evaluation``."""


@dataclass
class Entry:
    """What one MLflow run is to hold."""

    name: str
    tags: dict[str, str]
    """Beside others ``level``, ``key`` and ``slot``, which identify it, and ``record``."""
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    datasets: tuple[TrackedDataset, ...] = ()
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """By their path among the run's artifacts."""
    start: int = 0
    end: int = 0
    """Milliseconds since 1970."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it the same run as one in the store."""
        return identity_of(self.tags)


def identity_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """What the tags of a run say of which one it is: level, key and slot."""
    return tuple(tags.get(name, "") for name in ("level", "key", "slot"))


def run_entry(study: Study, run: Run, slot: int, place: Place, digests: Mapping[str, str]) -> Entry:
    """One replicate of one run as far as its configuration tells, which a training that goes on knows too.

    Parameters
    ----------
    study, run, slot
        Which one.
    place
        The row of the tables that it is shown under.
    digests
        Of the manifests of its data sets, by name@size.
    """
    config: Any = run.config
    replicate = config.replicates[slot]
    module = f" module {config.index}" if getattr(config, "index", None) is not None else ""
    context = "evaluation" if isinstance(config, Evaluate | EvaluateTeacher | MeasureHybrid) else "training"
    return Entry(
        name=f"{run.phase}{module} seed {replicate}",
        tags={
            "level": "run",
            "key": run.key,
            "slot": str(slot),
            "phase": run.phase,
            "seed": str(replicate),
            "folder": f"{study.folder(run.id)}/{slot}",
            **place_tags(study, place),
        },
        params=flat(config.model_dump(mode="json")),
        datasets=tuple(TrackedDataset(data, digests[str(data)], context) for data in config.data_sets if str(data) in digests),
    )


def place_tags(study: Study, place: Place) -> dict[str, str]:
    """Names of a row of the tables."""
    return {"scale": study.scale_name, **place._asdict()}


def curve_points(lines: list[dict[str, Any]]) -> list[Point]:
    """The numbers of ``metrics.jsonl``, a step an epoch."""
    return [
        point
        for line in lines
        for point in points("", {name: value for name, value in line.items() if name not in ("epoch", "step")}, line["epoch"])
    ]


def points(prefix: str, values: Mapping[str, float], step: int = 0) -> list[Point]:
    """Numbers of one step, their names as MLflow takes them."""
    return [Point(re.sub(r"[^\w\-. :/]", "-", f"{prefix}{name}"), float(value), step) for name, value in values.items()]


def origin(data: Data) -> dict[str, Any]:
    """Where a prepared set lies, and what it was made from."""
    source = datasets().get(data.name)
    files = [file.url or file.name for file in source.files] if source else []
    return {"folder": data.folder, "files": files}


def flat(content: Mapping[str, Any]) -> dict[str, str]:
    """Nested configuration as dotted names and text; a list is JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in leaves(content, ".")}


def leaves(content: Mapping[str, Any], separator: str = "/", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings with their names, joined by the separator."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from leaves(value, separator, f"{prefix}{name}{separator}")
        else:
            yield f"{prefix}{name}", value
