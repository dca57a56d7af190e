"""Safe opening of untrusted files: only regular files are opened, and their type is detected by content."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from m2mkd.errors import InputError

TEXT_LIMIT = 16 * 2**20
"""Maximum bytes of a configuration, an index or a header; those of published networks have less than a hundredth of this."""
MISTAKEN = {
    b"version https://git-lfs.github.com/": "is a git-LFS pointer, not the file itself; fetch the file with 'git lfs pull'",
    b"<!doctype html": "is a web page; download the file itself, logged in if the site requires it",
    b"<html": "is a web page; download the file itself, logged in if the site requires it",
    b"\x1f\x8b": "is packed with gzip; unpack it first",
    b"\xfd7zXZ": "is packed with xz; unpack it first",
    b"BZh": "is packed with bzip2; unpack it first",
    b"\x28\xb5\x2f\xfd": "is packed with zstd; unpack it first",
}
"""Descriptions and fixes of files that are often found instead of a checkpoint, by their first bytes in lower case."""


@contextmanager
def open_foreign(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; refuse a pipe, a device or a folder, for which reading may wait or never end.

    Raises
    ------
    InputError
        If the file does not exist, or is not a regular file.
    """
    try:
        _require_file(path, path.stat())
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            _require_file(path, os.fstat(file.fileno()))
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give the path of a file") from None


def require_genuine(path: Path, start: bytes) -> None:
    """Refuse a file that is often found instead of the wanted one, and name its type.

    Parameters
    ----------
    path
        Path of the file.
    start
        Its first bytes, about 64.

    Raises
    ------
    InputError
        If it is a pointer to the file, a web page, or packed.
    """
    lowered = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in MISTAKEN.items():
        if lowered.startswith(beginning.lower()):
            raise InputError(f"{path}: {what}")


def read_text(path: Path) -> str:
    """Text of a small file, in UTF-8.

    Raises
    ------
    InputError
        If the file does not exist, is not a regular file, is too large, or is not text.
    """
    with open_foreign(path) as file:
        content = file.read(TEXT_LIMIT + 1)
    require_genuine(path, content[:64])
    if len(content) > TEXT_LIMIT:
        raise InputError(f"{path}: has more than {TEXT_LIMIT // 2**20} MiB, which no configuration needs; give another file")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _require_file(path: Path, status: os.stat_result) -> None:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISCHR: "device", stat.S_ISBLK: "device", stat.S_ISSOCK: "socket"}
    for is_kind, kind in kinds.items():
        if is_kind(status.st_mode):
            raise InputError(f"{path}: is a {kind}, not a file; give the path of a file")
