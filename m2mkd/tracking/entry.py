"""What one MLflow run is to hold, made from the study and the files of a run alone; nothing in here needs MLflow."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from m2mkd.config.load import datasets
from m2mkd.study.data import Data
from m2mkd.study.files import PlannedRun
from m2mkd.study.phase import CURVES
from m2mkd.study.run import RowName

Artifact = Path | Callable[[BinaryIO], object]
"""A file that is there, or what writes one."""
IDENTITY = ("level", "key")
"""Tags that say which run it is."""
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
    """Beside others ``level`` and ``key``, which identify it, and ``record``."""
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
    """What the tags of a run say of which one it is: level and key."""
    return tuple(tags.get(name, "") for name in IDENTITY)


def run_entry(planned: PlannedRun, digests: Mapping[str, str]) -> Entry:
    """A run as far as its plan tells, which a training that goes on knows too.

    Parameters
    ----------
    planned
        Which one.
    digests
        Of the manifests of its data sets, by name@size.
    """
    run, config = planned.run, planned.run.config
    index = getattr(config, "index", None)
    module = "" if index is None else f" module {index}"
    seed = "" if run.seed is None else f" seed {run.seed}"
    context = "training" if CURVES in config.OUTPUTS else "evaluation"
    return Entry(
        name=f"{run.phase}{module}{seed}",
        tags={
            "level": "run",
            "key": run.key,
            "phase": run.phase,
            **({} if run.seed is None else {"seed": str(run.seed)}),
            "folder": planned.folder.as_posix(),
            **row_tags(planned.scale_name, planned.row),
        },
        params=flat(config.model_dump(mode="json")),
        datasets=tuple(TrackedDataset(data, digests[str(data)], context) for data in config.data_sets if str(data) in digests),
    )


def row_tags(scale_name: str, row_name: RowName) -> dict[str, str]:
    """Names of a row of the tables."""
    return {"scale": scale_name, **row_name._asdict()}


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
