"""Moving finished runs of the old layout to the current keys.

A run once held several seeds, in folders ``runs/<phase>/<key>/<slot>``, and its configuration listed them as ``replicates``. A run is now
one seed, in ``runs/<phase>/<key>``. What was computed is the same to the bit; only keys and records change, and both follow from the old
record.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import publish, require_file, sha256, write_json
from m2mkd.study.keys import run_key, sealed
from m2mkd.study.phase import PHASES, RECORD, SeededPhase


class _Unfit(Exception):  # noqa: N818  a reason, not an error
    """Reason why a run cannot be moved."""


class _OldConfiguration(BaseModel):
    model_config = ConfigDict(extra="allow")
    replicates: list[int] = []


class _OldRecord(BaseModel):
    """Fields of a record of the old layout."""

    id: str
    key: str
    slot: int
    replicate: int | None
    config: _OldConfiguration
    upstream: dict[str, list[str]]
    outputs: dict[str, str]


@dataclass(frozen=True)
class _OldRun:
    """Single seed of a run in the old layout."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder.parents[2]

    @property
    def id(self) -> str:
        return "/".join(self.folder.parts[-3:-1])

    @cached_property
    def record(self) -> dict[str, Any]:
        path = self.folder / RECORD
        try:
            require_file(path)
            record = parse_json(path.read_bytes(), f"its {RECORD}")
            _OldRecord.model_validate(record)
        except OSError as error:
            raise _Unfit(f"its {RECORD} cannot be read ({error.strerror})") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise _Unfit(f"its {RECORD} is not a complete record ({field}: {first['msg']})") from None
        except InputError as error:
            raise _Unfit(str(error)) from None
        return record

    def check(self) -> None:
        """Raise `_Unfit` unless its key follows from its record, and its outputs are those that it recorded."""
        record, phase = self.record, PHASES.get(self.folder.parts[-3])
        if phase is None:
            raise _Unfit("its phase no longer exists")
        key = run_key(phase.FORMAT, record["config"], record["upstream"])
        if (record["id"], record["key"]) != (self.id, key) or key != self.folder.parts[-2]:
            raise _Unfit("its key does not follow from its record, perhaps because it is of another version")
        if dict(enumerate(record["config"].get("replicates", ()))).get(int(self.folder.name)) != record["replicate"]:
            raise _Unfit("its record is of another seed than its folder")
        if record["outputs"].keys() != set(phase.OUTPUTS) - {RECORD}:
            raise _Unfit(f"its outputs are not those of {phase.name()}")
        for name, digest in record["outputs"].items():
            if not (self.folder / name).is_file() or sha256(self.folder / name) != digest:
                raise _Unfit(f"its {name} differs from the recorded one")

    def upstream(self, run_id: str) -> "_OldRun":
        """Run that it builds on under that id: the folder of its own seed, or the one that all share."""
        folder = self.runs / run_id
        own = folder / self.folder.name
        return _OldRun(own if own.is_dir() else folder / "0")

    def config(self) -> dict[str, Any]:
        """Configuration in the current form."""
        config = {name: value for name, value in self.record["config"].items() if name != "replicates"}
        seeded = issubclass(PHASES[self.folder.parts[-3]], SeededPhase)
        return config | ({"seed": self.record["replicate"]} if seeded else {})


def migrate(root: Path) -> Iterator[str]:
    """Move every finished run below a scale's folder to its new key.

    Parameters
    ----------
    root
        ``results/<scale>``.

    Yields
    ------
    str
        One line for all runs that were moved, and one for each that was not, with the reason. Only moved runs are removed.
    """
    old = [_OldRun(path.parent) for path in sorted((root / "runs").glob(f"*/*/*/{RECORD}")) if path.parent.name.isdecimal()]
    ids: dict[Path, str | _Unfit] = {}
    moved = 0
    for run in old:
        try:
            new_id = _new_id(run, ids)
        except _Unfit as reason:
            yield f"{run.folder}: not moved, because {reason}"
            continue
        _move(run, new_id, root / "runs" / new_id, ids)
        moved += 1
    for moved_folder in [folder for folder, new_id in reversed(ids.items()) if isinstance(new_id, str)]:
        shutil.rmtree(moved_folder, ignore_errors=True)  # after all runs that build on it, so that the rest can still be moved later
        if not any(moved_folder.parent.iterdir()):
            moved_folder.parent.rmdir()
    yield f"{moved} of {len(old)} finished runs were moved to their new keys" if old else f"{root}: has no runs of the old layout"
    unfinished = sorted({path.parent for path in (root / "work").glob("*/*/*") if path.is_dir() and path.name.isdecimal()})
    if unfinished:
        yield f"{len(unfinished)} unfinished runs, such as {unfinished[0]}, cannot be identified, and are trained again"
    if moved and (root.parent / "mlflow.db").is_file():
        yield f"{root.parent}/mlflow.db: also has the old keys; to keep only the new ones, remove it, and the workflow fills it again"


def _new_id(run: _OldRun, ids: dict[Path, str | _Unfit]) -> str:
    """Current id of a run, derived from the ids of all runs that it builds on."""
    if run.folder not in ids:
        try:
            run.check()
            upstream = {role: [_upstream_id(run, run_id, ids) for run_id in old] for role, old in run.record["upstream"].items()}
            phase = run.folder.parts[-3]
            ids[run.folder] = f"{phase}/{run_key(PHASES[phase].FORMAT, run.config(), upstream)}"
        except _Unfit as reason:
            ids[run.folder] = reason
    found = ids[run.folder]
    if isinstance(found, _Unfit):
        raise found
    return found


def _upstream_id(run: _OldRun, run_id: str, ids: dict[Path, str | _Unfit]) -> str:
    above = run.upstream(run_id)
    try:
        return _new_id(above, ids)
    except _Unfit as reason:
        raise _Unfit(f"it builds on {above.folder}, which is not moved: {reason}") from None


def _move(run: _OldRun, new_id: str, target: Path, ids: dict[Path, str | _Unfit]) -> None:
    """Publish the outputs of a run under its new id; its record, which marks it as complete, comes last."""
    record = run.record
    for name in record["outputs"]:
        publish(run.folder / name, target / name)
    upstream = {role: [_upstream_id(run, run_id, ids) for run_id in old] for role, old in record["upstream"].items()}
    kept = {name: value for name, value in record.items() if name not in ("slot", "replicate")}
    changed = {"id": new_id, "key": new_id.partition("/")[2], "config": run.config(), "upstream": upstream}
    content = kept | changed | {"seed": run.config().get("seed"), "migrated_from": f"{run.id}/{run.folder.name}"}
    write_json(target / RECORD, sealed(content))
