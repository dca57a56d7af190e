"""Snakemakes that work in this folder, also on other machines that share it."""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from m2mkd.errors import InputError
from m2mkd.files import read_note

RECORDS = Path("results/.workflows")
"""Where every Snakemake notes itself while it works (``workflow/rules/starts.smk``), and touches its note every ten seconds."""
SILENCE = 120.0
"""Seconds without a touch after which a Snakemake of another machine is gone; a file system may take a while to show one."""
HEARTBEAT = 5.0
"""Seconds between two looks at another machine's note."""


def working() -> Iterator[str]:
    """Each Snakemake that works in this folder, in a few words; not one that started this process."""
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
    """Refuse what would take away what a workflow needs.

    Raises
    ------
    InputError
        If a Snakemake works in this folder.
    """
    for found in working():
        raise InputError(f"{verb}: {found}, may need what would be removed; run the same command again when it has ended")


def wait_for_all(say: Callable[[str], object]) -> None:
    """Wait until no Snakemake works in this folder: what it has locked is not to be taken."""
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
    """The time of the file system that the notes are on, which may be another machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=RECORDS) as file:
            return Path(file.name).stat().st_mtime
    except OSError:
        return time.time()
