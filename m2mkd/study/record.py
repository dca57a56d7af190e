"""The record of a finished run, ``run.json``: read as strictly as what people write, and compared with what lies around it now."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import require_file
from m2mkd.study.code import SOURCES_HERE, changed_modules, code_of
from m2mkd.study.keys import SEAL, digest, is_sealed
from m2mkd.study.phase import RECORD
from m2mkd.study.study import Study

LARGEST_RECORD = 1 << 24
"""Bytes; that of a run has a thousandth of it."""
MOST_NAMED = 3
"""Changed modules that are named; more would not be read."""


def read_run_json(folder: Path) -> dict[str, Any]:
    """The record in the folder of a run.

    Raises
    ------
    OSError
        If it cannot be read.
    InputError
        If it is no JSON object, a name stands twice in it, or it is not what its own digest says. Records of earlier versions have none,
        nor have they what came with it.
    """
    path = folder / RECORD
    if require_file(path).st_size > LARGEST_RECORD:
        raise InputError(f"{path}: is larger than any record; remove {folder} and run the workflow again")
    return parse_record(path.read_bytes(), str(path))


def parse_record(text: bytes, where: str) -> dict[str, Any]:
    """The same of a text; ``where`` says where it stands."""
    fix = f"remove {Path(where).parent} and run the workflow again"
    try:
        record = parse_json(text, where)
    except InputError as error:
        raise InputError(f"{error}; {fix}") from None
    if (SEAL in record or "code" in record) and not is_sealed(record):
        raise InputError(f"{where}: is damaged: its content is not what its digest says; {fix}")
    return record


@dataclass(frozen=True)
class Finished:
    """What the record of a run says of how it came about."""

    outputs: str
    """Digest of the digests of its outputs."""
    changed: tuple[str, ...] | None
    """Modules that it was computed by in another version than those that are here; none: it does not say by which."""
    replaced: tuple[str, ...] = ()
    """Runs that it builds on whose outputs are no longer those that it was computed from."""

    @property
    def is_outdated(self) -> bool:
        """Whether computing it now might give something else."""
        return bool(self.changed or self.replaced)


def finished_runs(study: Study, package: Path = SOURCES_HERE) -> dict[str, Finished]:
    """Every run of a study whose record is there, by id; a record that cannot be read is left out.

    Parameters
    ----------
    study
        The graph of runs.
    package
        Sources that the runs' code is compared with.
    """
    records: dict[str, dict[str, Any]] = {}
    for run_id in study.runs:
        try:
            records[run_id] = read_run_json(Path(study.folder(run_id)))
        except (OSError, InputError):
            continue
    outputs = {run_id: outputs_digest(record) for run_id, record in records.items()}
    found = {}
    for run_id, record in records.items():
        code, inputs = record.get("code"), record.get("inputs")
        changed = changed_modules(code, code_of(study.runs[run_id].phase, package)) if isinstance(code, dict) else None
        built_on = inputs if isinstance(inputs, dict) else {}
        replaced = tuple(sorted(name for name, known in built_on.items() if outputs.get(name, known) != known))
        found[run_id] = Finished(outputs[run_id], changed, replaced)
    return found


def outputs_digest(record: Mapping[str, Any]) -> str:
    """Digest of what a run published, whenever it did."""
    return digest(record.get("outputs"))


def code_in_words(finished: Finished | None) -> str:
    """Whether this code computed a run: ``same``, ``unknown``, or what differs; empty where it is not finished."""
    if finished is None:
        return ""
    if finished.replaced:
        return f"built on other outputs of {_some(finished.replaced)}"
    if finished.changed is None:
        return "unknown"
    return f"other: {_some(finished.changed)}" if finished.changed else "same"


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
