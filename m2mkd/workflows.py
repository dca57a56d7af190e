"""Snakemake processes in this folder, including those of other machines that share it."""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from m2mkd.errors import InputError
from m2mkd.files import read_note

RECORDS = Path("results/.workflows")
"""Folder of the notes that each working Snakemake keeps (``workflow/rules/starts.smk``) and touches every ten seconds."""
SILENCE = 120.0
"""Seconds without a touch after which another machine's Snakemake counts as ended; a file system may delay a touch."""
HEARTBEAT = 5.0
"""Seconds between two checks of another machine's note."""


def working() -> Iterator[str]:
    """Descriptions of the Snakemake processes that work in this folder, except the one that started this process."""
    yield from (f"process {process.pid}, a Snakemake that works here" for process in _local())
    now = _now()
    for path in sorted(RECORDS.glob("*.json")):
        try:
            note, age = read_note(path), now - path.stat().st_mtime
            host, pid = str(note["host"]), int(note["pid"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue  # it has just ended
        if host != socket.gethostname() and age < SILENCE:
            yield f"process {pid} on {host}, a Snakemake that works here"


def require_none(verb: str) -> None:
    """Refuse to remove what a running workflow needs.

    Raises
    ------
    InputError
        If a Snakemake works in this folder.
    """
    for found in working():
        raise InputError(f"{verb}: {found}, may need the files to be removed; run the same command again when it has ended")


def wait_for_all(say: Callable[[str], object]) -> None:
    """Wait until no Snakemake works in this folder, because its locked files must not be taken."""
    said = set()
    while there := list(working()):
        for found in there:
            if found not in said:
                say(f"waiting for {found}")
                said.add(found)
        psutil.wait_procs(_local(), timeout=HEARTBEAT) if any(_local()) else time.sleep(HEARTBEAT)


def _local() -> list[psutil.Process]:
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        named = any(Path(word).name == "snakemake" for word in words[:3])
        if named and process.info["cwd"] == str(Path.cwd()) and process.pid not in own:
            found.append(process)
    return found


def _now() -> float:
    """Time of the notes' file system, which may be another machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=RECORDS) as file:
            return Path(file.name).stat().st_mtime
    except OSError:
        return time.time()
