"""Atomic writing of files: each appears whole or not at all."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from m2mkd.errors import InputError
from m2mkd.locks import LACKING


def require_writable(folder: Path) -> None:
    """Refuse a folder that is not writable before any work is lost; a folder that does not exist counts as its parent.

    Raises
    ------
    InputError
        If the folder is read-only for this user.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} is read-only for this user; make it writable, or work in a copy of the project")


LARGEST_NOTE = 1 << 20
"""Bytes."""
NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def require_file(path: Path) -> os.stat_result:
    """Refuse a path that is not a regular file before it is opened: a pipe or a device may never end.

    Returns
    -------
    os.stat_result
        State of the file; links are followed.

    Raises
    ------
    InputError
        If it is a folder, a pipe, a device or a socket.
    OSError
        If it does not exist, or cannot be examined.
    """
    state = path.stat()
    if kind := NO_FILES.get(stat.S_IFMT(state.st_mode)):
        raise InputError(f"{path}: is {kind}; replace it by the file itself")
    return state


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, flush it to disk and rename it.

    Parameters
    ----------
    path
        Path of the new file; its folder is created.
    write
        Function called with the temporary file, open for bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path), temporary.open("wb") as file:
            write(file)
            to_disk(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file name to a system error without one, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def to_disk(file: BinaryIO) -> None:
    """Flush a written file to disk, if the file system supports it."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, *LACKING):
            raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def as_json(value: Any) -> str:
    """Indented JSON with a final newline."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, as_json(value))


def read_note(path: Path) -> Any:
    """JSON of a note that this program keeps for itself; None if it does not exist or is not valid."""
    try:
        if require_file(path).st_size > LARGEST_NOTE:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, InputError):
        return None


def publish(source: Path, target: Path) -> None:
    """Make the file ``source`` appear whole as ``target`` too, by a link if the file systems allow it, else by a copy.

    Only one process at a time may do so for a target; the remains of an interrupted one are reused.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # file systems without links raise various errors; copying reports any other one
        with naming(temporary):
            shutil.copyfile(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # renaming keeps it if both names already refer to one file


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Work folder next to ``folder`` that replaces it when the block succeeds, and is removed when the block fails.

    One process at a time holds it. Contents that an interrupted process left are kept. The lock is on the folder itself, because a
    separate lock file would remain among the files that DVC keeps.
    """
    partial, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in LACKING:
                os.close(lock)
                raise  # without locks no other process can be kept out
        # The previous holder of the lock may have renamed or removed the locked folder.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), partial.stat()):
                break
        os.close(lock)
    try:
        yield partial
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except Exception:  # not an interrupt: its contents are kept, and the next process resumes from them
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)
