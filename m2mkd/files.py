"""Writing files so that they are there whole or not at all."""

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
    """Refuse a folder that nothing can be written to, before any work is lost by it; one that is not there yet counts as its parent.

    Raises
    ------
    InputError
        If it is read-only for this user.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} is read-only for this user; make it writable, or work in a copy of the project")


LARGEST_NOTE = 1 << 20
"""Bytes."""
NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def require_file(path: Path) -> os.stat_result:
    """Refuse what is no file in the place of one before it is opened: a pipe or a device may never end.

    Returns
    -------
    os.stat_result
        Its state; links are followed.

    Raises
    ------
    InputError
        If it is a folder, a pipe, a device or a socket.
    OSError
        If there is nothing, or it cannot be looked at.
    """
    state = path.stat()
    if kind := NO_FILES.get(stat.S_IFMT(state.st_mode)):
        raise InputError(f"{path}: is {kind}; put the file itself there")
    return state


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, bring it to the disk and rename it.

    Parameters
    ----------
    path
        Where the file is to appear; its folder is made.
    write
        Called with the temporary file, open for bytes.
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
    """Name the file in an error of the system that does not, such as that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def to_disk(file: BinaryIO) -> None:
    """Bring what was written to a file to the disk, where the file system can be asked to."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, *LACKING):
            raise


def write_text(path: Path, text: str) -> None:
    """Write ``text``, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def as_json(value: Any) -> str:
    """Indented JSON with a newline at its end."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, as_json(value))


def read_note(path: Path) -> Any:
    """JSON of a note that this program keeps for itself; none where there is no such note, or what is there is something else."""
    try:
        if require_file(path).st_size > LARGEST_NOTE:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, InputError):
        return None


def publish(source: Path, target: Path) -> None:
    """Let the file ``source`` appear whole as ``target`` too, without copying it where the file systems allow.

    Of one target only one process may do so at a time; what an interrupted one has left is used up.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # file systems without links say so in many ways; what else is wrong, copying tells
        with naming(temporary):
            shutil.copyfile(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # which renaming leaves where both names are of one file already


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A work folder beside ``folder`` that takes its place when the block ends well, and vanishes when the block fails.

    One process at a time holds it. What an interrupted one left in it is still there. The lock is on the folder itself, for a lock file as
    elsewhere would stay among what DVC keeps.
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
                raise  # where there are no locks, nobody can be kept off
        # Whoever held the lock before may have renamed or removed the folder that it is on.
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
    except Exception:  # not an interrupt: what is there then is gone on with
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)
