"""Files of others that a run builds on, told by their content."""

import contextlib
import json
from pathlib import Path

from m2mkd.errors import InputError
from m2mkd.files import sha256, write_json

CACHE = Path("results/.digests.json")
"""Digests by path, with the size and the time of modification that they were computed at."""


def imported_digest(file: str, field: str) -> str:
    """sha256 of a file, computed once as long as its size and time of modification stay.

    Raises
    ------
    InputError
        If it is not there; ``field`` says where it is named.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{field}: {file} is not a file; write one there with 'm2mkd import'")
    facts = path.stat()
    stamp = [facts.st_size, facts.st_mtime_ns]
    try:
        known = json.loads(CACHE.read_text())
    except (OSError, ValueError):
        known = {}
    if known.get(file, [None])[:2] != stamp:
        known[file] = [*stamp, sha256(path)]
        with contextlib.suppress(OSError):  # where nothing can be written, it is computed each time
            write_json(CACHE, known)
    return known[file][2]
