"""Imported files that a run builds on, identified by their content."""

import contextlib
import re
from pathlib import Path

from m2mkd.errors import InputError
from m2mkd.files import read_note, sha256, write_json

CACHE = Path("results/.digests.json")
"""Digests by path, with the size and the time of modification that they were computed at."""


def imported_digest(file: str, field: str) -> str:
    """Sha256 of a file, computed again only if its size or time of modification has changed.

    Raises
    ------
    InputError
        If it does not exist; ``field`` names the place of its name.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{field}: {file} is not a file; write one there with 'm2mkd import'")
    facts = path.stat()
    stamp = [facts.st_size, facts.st_mtime_ns]
    note = read_note(CACHE)
    known = note if isinstance(note, dict) else {}
    match known.get(file):
        case [size, mtime, str(digest)] if [size, mtime] == stamp and re.fullmatch("[0-9a-f]{64}", digest):
            pass
        case _:
            known[file] = [*stamp, sha256(path)]
            with contextlib.suppress(OSError):  # without write access it is computed each time
                write_json(CACHE, known)
    return known[file][2]
