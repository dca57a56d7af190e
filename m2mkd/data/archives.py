"""Reading archives of images in place: nothing foreign is unpacked to the disk, and nothing dangerous is read.

The members of a zip and of a plain tar are read where they lie. A compressed tar cannot be, so it is decompressed once, to a scratch file.
"""

import errno
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from bz2 import BZ2File
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from m2mkd.errors import InputError
from m2mkd.files import write_atomically

LARGEST_RATIO = 200
"""Most bytes that a compressed byte may become; photographs stay below 2, text and pickles of pixels below 20."""
RATIO_MATTERS_FROM = 1 << 20
"""Bytes below which no ratio is a bomb."""
LARGEST_MEMBER = 1 << 38
"""Bytes; the training set of ImageNet is half of that."""
CHUNK = 1 << 20
_COMPRESSED: dict[bytes, Callable[[Path], IO[bytes]]] = {b"\x1f\x8b": gzip.open, b"BZ": BZ2File, b"\xfd7": lzma.open}  # type: ignore[dict-item]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What is wrong where an archive is decompressed to, not with the archive."""


class Place(NamedTuple):
    """Where one file lies: small, so that it can be handed to another process."""

    archive: Path
    """For messages."""
    file: Path
    """What is read: the archive, or its decompressed copy."""
    name: str
    offset: int
    """In a plain tar; -1 elsewhere."""
    size: int

    def read(self) -> bytes:
        """Content of the file.

        Raises
        ------
        InputError
            If it is damaged.
        """
        try:
            if self.offset >= 0:
                with self.file.open("rb") as file:
                    content = os.pread(file.fileno(), self.size, self.offset)
            else:
                content = _open_zip(self.file).read(self.name)
        except Exception as error:  # the libraries fail in any way
            raise InputError(f"{self.archive}: {self.name} cannot be read ({error}); fetch the archive again") from None
        if len(content) != self.size:
            raise InputError(f"{self.archive}: ends inside {self.name}; fetch the archive again")
        return content


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Listing a zip takes as long as reading thousands of its members, so it stays open."""
    now = path.stat()
    return _kept_zip(path.absolute(), now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=4)
def _kept_zip(path: Path, _mtime: int, _size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class Archive:
    """Files by name, in the order of the archive, that can be read in any order and from any process."""

    path: Path
    """For messages."""
    members: dict[str, int]
    """Bytes of each file, by its name with forward slashes."""
    file: Path
    """What is read: the archive itself, or its decompressed copy."""
    offsets: dict[str, int] = field(default_factory=dict, repr=False)
    """Where each file starts, in a plain tar."""

    def place(self, name: str) -> Place:
        """Where a file lies.

        Raises
        ------
        InputError
            If there is no such file.
        """
        if name not in self.members:
            raise InputError(f"{self.path}: {name} is missing; fetch the whole archive")
        return Place(self.path, self.file, name, self.offsets.get(name, -1), self.members[name])

    def read(self, name: str) -> bytes:
        """Content of one file; raises as `place` and `Place.read`."""
        return self.place(name).read()


def open_archive(path: Path, scratch: Path) -> Archive:
    """List an archive, and refuse what no data set needs.

    Parameters
    ----------
    path
        zip, tar, or compressed tar.
    scratch
        Where a compressed tar is decompressed to; a finished copy of the same file there is used again.

    Raises
    ------
    InputError
        If it is damaged or of no known kind, or holds a path out of its own tree, a link out of it, a device, a name twice, or more than it
        can honestly hold.
    OSError
        If it cannot be decompressed for want of space.
    """
    try:
        if zipfile.is_zipfile(path):
            return _zip(path)
        with path.open("rb") as file:
            start = file.read(2)
        if start in _COMPRESSED:
            return _tar(path, _decompressed(path, _COMPRESSED[start], scratch))
        return _tar(path, path)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: absent; fetch it first") from None
    except Exception as error:  # the libraries fail in any way
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise InputError(f"{path}: not a whole archive ({error or type(error).__name__}); fetch it again") from None


def _zip(path: Path) -> Archive:
    members: dict[str, int] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            # Seen as a tar's member, so that both kinds pass through the same checks; the upper half of the attributes is Unix's mode.
            seen = tarfile.TarInfo(entry.filename)
            seen.size, mode = entry.file_size, entry.external_attr >> 16
            if entry.is_dir():
                seen.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(mode):
                seen.type, seen.linkname = tarfile.SYMTYPE, archive.read(entry).decode(errors="replace")
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                seen.type = tarfile.CHRTYPE
            if entry.flag_bits & 1:
                raise InputError(f"{path}: {entry.filename} is encrypted; unpack it by hand")
            _refuse_bomb(path, entry.filename, entry.file_size, entry.compress_size)
            if _accepted(path, seen):
                _add(path, members, entry.filename, entry.file_size)
    # Members that share their bytes are each within the ratio.
    _refuse_bomb(path, "its content", sum(members.values()), path.stat().st_size)
    return Archive(path, members, path)


def _tar(path: Path, file: Path) -> Archive:
    members: dict[str, int] = {}
    offsets: dict[str, int] = {}
    with file.open("rb") as stream:
        _list_tar(path, stream, "", members, offsets)
    end = max((offsets[name] + size for name, size in members.items()), default=0)
    if end > file.stat().st_size:
        raise InputError(f"{path}: is truncated; fetch it again")
    return Archive(path, members, file, offsets)


def _list_tar(path: Path, stream: IO[bytes], prefix: str, members: dict[str, int], offsets: dict[str, int]) -> None:
    """List the tar that starts where ``stream`` stands, and the tars in it: ImageNet comes as one of a thousand."""
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        entries = [entry for entry in archive if _accepted(path, entry)]
    for entry in entries:
        if entry.name.endswith(".tar") and not prefix:
            stream.seek(entry.offset_data)
            _list_tar(path, stream, f"{entry.name.removesuffix('.tar')}/", members, offsets)
        else:
            _add(path, members, prefix + entry.name, entry.size)
            offsets[prefix + entry.name] = entry.offset_data


def _accepted(path: Path, entry: tarfile.TarInfo) -> bool:
    """Whether a member is a file to be listed; a folder, a link inside the tree, or what macOS adds to each file, is passed over."""
    try:
        if entry.name.startswith(("/", "\\")) or "\\" in entry.name:
            raise tarfile.AbsolutePathError(entry)
        tarfile.data_filter(entry, "/nowhere")
    except tarfile.FilterError as error:
        what = {
            "SpecialFileError": "a device or pipe",
            "AbsoluteLinkError": "a link out of the archive",
            "LinkOutsideDestinationError": "a link out of the archive",
        }.get(type(error).__name__, "a path out of the archive")
        raise InputError(f"{path}: {entry.name} is {what}; do not use this file, fetch the original") from None
    if not entry.isreg() or PurePosixPath(entry.name).name.startswith("._"):
        return False
    if entry.issparse() or entry.size > LARGEST_MEMBER:
        raise InputError(f"{path}: {entry.name} claims {entry.size} bytes that are not there; do not use this file, fetch the original")
    return True


def _add(path: Path, members: dict[str, int], name: str, size: int) -> None:
    if name in members:
        raise InputError(f"{path}: {name} is there twice; do not use this file, fetch the original")
    members[name] = size


def _decompressed(path: Path, opened: Callable[[Path], IO[bytes]], scratch: Path) -> Path:
    now = path.stat()
    target = scratch / f"{path.name}.{now.st_size}-{now.st_mtime_ns}.tar"
    if not target.is_file():
        with opened(path) as source:
            write_atomically(target, lambda file: [file.write(chunk) for chunk in _bounded(path, source)])
    return target


def _bounded(path: Path, source: IO[bytes]) -> Iterator[bytes]:
    compressed, total = path.stat().st_size, 0
    while chunk := source.read(CHUNK):
        total += len(chunk)
        _refuse_bomb(path, "its content", total, compressed)
        yield chunk


def _refuse_bomb(path: Path, what: str, size: int, compressed: int) -> None:
    if size > RATIO_MATTERS_FROM and size > LARGEST_RATIO * compressed:
        claim = f"{what} unpacks to more than {LARGEST_RATIO} times its size, as no photograph does"
        raise InputError(f"{path}: {claim}; do not use this file, fetch the original")
