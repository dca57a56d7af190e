"""Processes that outlive the command that started them: finding and ending the project's own orphans."""

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import Timeout

from m2mkd.files import read_note
from m2mkd.locks import hold

OWNER_FILE = re.compile(r"\.(.+)\.owner\.json")
"""Name of the record of who holds a piece of work, which is the group."""
PATIENCE = 10.0
"""Seconds that an orphan gets to end before it is killed."""


def _identity(process: psutil.Process) -> dict[str, float]:
    # A process id alone is reused; a process id with its start time is not.
    return {"pid": process.pid, "created": process.create_time()}


def _alive(identity: dict[str, float] | None) -> psutil.Process | None:
    if identity is None:
        return None
    try:
        process = psutil.Process(int(identity["pid"]))
        same = process.create_time() == identity["created"] and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):  # also for content that no process wrote
        return None
    return process if same else None


def _starter(name: str) -> psutil.Process | None:
    """Nearest ancestor whose command line names ``name``."""
    for ancestor in psutil.Process().parents():
        try:
            if any(Path(word).name == name for word in ancestor.cmdline()[:3]):
                return ancestor
        except psutil.Error:
            continue
    return None


def end_tree(process: psutil.Process) -> None:
    """End a process and all its descendants, first with a request, then by force."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for member in family:
        try:
            member.terminate()
        except psutil.Error:
            continue
    _, stubborn = psutil.wait_procs(family, timeout=PATIENCE)
    for member in stubborn:
        try:
            member.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(stubborn, timeout=PATIENCE)


@contextmanager
def exclusive(work: Path, starter: str, say: Callable[[str], object]) -> Iterator[Callable[[int], None]]:
    """Hold a piece of work for this process alone.

    A process that holds the work although the command that started it has ended is an orphan. It is ended with all its child
    processes; for any other holder the function waits.

    Parameters
    ----------
    work
        Path of the work; the lock and a record of the holder are next to it, under the same name.
    starter
        Name of the program whose death makes the holder an orphan: ``snakemake`` for a job, ``make`` for a whole reproduction.
    say
        Function that reports what is waited for or ended.

    Yields
    ------
    Callable
        Records the id of a child process that must end with this one.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    owner = work.with_name(f".{work.name}.owner.json")
    file = work.with_name(f".{work.name}.lock")
    try:
        lock = hold(file, timeout=0)
    except Timeout:
        _end_or_announce(owner, say)
        lock = hold(file)
    try:
        _end_child_of_dead(owner, say)
        parent = _starter(starter)
        record = {
            "host": socket.gethostname(),
            "self": _identity(psutil.Process()),
            "starter": _identity(parent) if parent else None,
            "child": None,
        }

        def note(child: int) -> None:
            record["child"] = _identity(psutil.Process(child))
            _write(owner, record)

        _write(owner, record)
        yield note
        owner.unlink(missing_ok=True)
    finally:
        lock.release()


def is_held(work: Path) -> bool:
    """True if a process holds the piece of work."""
    path = work.with_name(f".{work.name}.lock")
    if not path.exists():
        return False
    try:
        hold(path, timeout=0).release()
    except Timeout:
        return True
    return False


def works_on(owner: Path, since: float) -> bool:
    """True if the process works that a record of `exclusive` names; takes no lock.

    Parameters
    ----------
    owner
        The record (`OWNER_FILE`). A failed or killed process leaves it behind.
    since
        Time in seconds. Of a process on another machine, which cannot be asked, it is true if the record was written since then.
    """
    record = read_note(owner)
    if not isinstance(record, dict):
        return False
    if record.get("host") == socket.gethostname():
        return _alive(record.get("self")) is not None
    try:
        return owner.stat().st_mtime >= since
    except OSError:
        return False


def _write(path: Path, record: dict) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(record))
    temporary.replace(path)


def _read(path: Path) -> dict:
    record = read_note(path)
    # Process ids of another machine on a shared file system mean nothing here.
    return record if isinstance(record, dict) and record.get("host") == socket.gethostname() else {}


def _end_or_announce(owner: Path, say: Callable[[str], object]) -> None:
    record = _read(owner)
    holder = _alive(record.get("self"))
    if holder is not None and record.get("starter") is not None and _alive(record["starter"]) is None:
        say(f"ending process {holder.pid}, left over from an interrupted command")
        end_tree(holder)
    else:
        who = f"process {holder.pid}" if holder else "another process, perhaps on another machine"
        say(f"waiting for {who}, which works on {owner.name.split('.')[1]}")


def _end_child_of_dead(owner: Path, say: Callable[[str], object]) -> None:
    child = _alive(_read(owner).get("child"))
    if child is not None:
        say(f"ending process {child.pid}, left over from an interrupted command")
        end_tree(child)
