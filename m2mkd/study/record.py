"""Record of a finished run, ``run.json``: read as strictly as files that people write, and compared with the present files."""

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
"""Size limit in bytes; a real record has a thousandth of it."""
MOST_NAMED = 3
"""Most changed modules that are named; nobody would read more."""


def read_run_json(folder: Path) -> dict[str, Any]:
    """Read the record in the folder of a run.

    Raises
    ------
    OSError
        If it cannot be read.
    InputError
        If it is not a JSON object, has a name twice, or does not match its own digest. Records of earlier versions have no digest,
        nor the fields that were added with it.
    """
    path = folder / RECORD
    if require_file(path).st_size > LARGEST_RECORD:
        raise InputError(f"{path}: is larger than any record; remove {folder} and run the workflow again")
    return parse_record(path.read_bytes(), str(path))


def parse_record(text: bytes, where: str) -> dict[str, Any]:
    """Parse the text of a record; ``where`` names its place."""
    fix = f"remove {Path(where).parent} and run the workflow again"
    try:
        record = parse_json(text, where)
    except InputError as error:
        raise InputError(f"{error}; {fix}") from None
    if (SEAL in record or "code" in record) and not is_sealed(record):
        raise InputError(f"{where}: is damaged: its content does not match its digest; {fix}")
    return record


@dataclass(frozen=True)
class Finished:
    """Origin of a run, by its record."""

    outputs: str
    """Digest of the digests of its outputs."""
    changed: tuple[str, ...] | None
    """Modules that have changed since it was computed; none: it does not record its modules."""
    replaced: tuple[str, ...] = ()
    """Runs that it builds on whose outputs have changed since."""

    @property
    def is_outdated(self) -> bool:
        """True if computing it now might give another result."""
        return bool(self.changed or self.replaced)


def finished_runs(study: Study, package: Path = SOURCES_HERE) -> dict[str, Finished]:
    """Runs of a study with a record, by id; a record that cannot be read is left out.

    Parameters
    ----------
    study
        The graph of runs.
    package
        Folder of the sources that the runs' code is compared with.
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
    """Comparison of a run's code with this code: ``same``, ``unknown``, or the differences; empty if it is not finished."""
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
