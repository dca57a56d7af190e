"""Reading archives of images in place: untrusted files are never unpacked to the disk, and nothing dangerous is read.

Members of a zip and of a plain tar are read in place. A compressed tar cannot be, so it is decompressed once, to a scratch file.
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
from pathlib import Path
from typing import IO, NamedTuple

from m2mkd.data.archive_checks import Header, accepted, add_member, lies, refuse_bomb
from m2mkd.errors import InputError
from m2mkd.files import require_file, write_atomically

LARGEST_FILE = 1 << 26
"""Maximum bytes of an image or a list, which are read into memory at once."""
LARGEST_LINK = 1 << 12
"""Maximum bytes of a link's target in a zip; no system has longer paths."""
DECOMPRESSED_AT_ONCE = 1 << 20
"""Bytes that are decompressed at a time."""
_COMPRESSED: dict[bytes, Callable[[Path], IO[bytes]]] = {b"\x1f\x8b": gzip.open, b"BZ": BZ2File, b"\xfd7": lzma.open}  # type: ignore[dict-item]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the disk that an archive is decompressed to, not of the archive."""


class ArchiveMember(NamedTuple):
    """File of an archive: small, so that it can be passed to another process."""

    archive: Path
    """For messages."""
    file: Path
    """File to read: the archive, or its decompressed copy."""
    name: str
    offset: int
    """Offset in a plain tar; -1 elsewhere."""
    size: int

    def read(self, limit: int = LARGEST_FILE) -> bytes:
        """Content of the file; in a zip, compared with its checksum.

        Parameters
        ----------
        limit
            Maximum bytes to read into memory.

        Raises
        ------
        InputError
            If it is damaged, or larger than ``limit``.
        """
        if self.size > limit:
            raise InputError(
                f"{self.archive}: {self.name} has {self.size} bytes, more than the {limit} of any such file; fetch the original"
            )
        try:
            if self.offset >= 0:
                with self.file.open("rb") as file:
                    content = os.pread(file.fileno(), self.size, self.offset)
            else:
                content = _kept_zip(self.file).read(self.name)
        except Exception as error:  # the libraries raise arbitrary errors
            raise InputError(f"{self.archive}: {self.name} cannot be read ({_reason(error)}); fetch the archive again") from None
        if len(content) != self.size:
            raise InputError(f"{self.archive}: ends inside {self.name}; fetch the archive again")
        return content


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip. Names without the UTF-8 mark usually are UTF-8; otherwise they have the code page of the first zip programs."""
    try:
        return zipfile.ZipFile(path, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(path)


def _kept_zip(path: Path) -> zipfile.ZipFile:
    """Return an open zip: listing one takes as long as reading thousands of its members, so it stays open."""
    now = path.stat()
    return _kept(path.absolute(), now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=4)
def _kept(path: Path, _mtime: int, _size: int) -> zipfile.ZipFile:
    return open_zip(path)


@dataclass(frozen=True)
class Archive:
    """Files by name, in the order of the archive, readable in any order and from any process."""

    path: Path
    """For messages."""
    members: dict[str, int]
    """Bytes of each file, by its name with forward slashes."""
    file: Path
    """File to read: the archive itself, or its decompressed copy."""
    offsets: dict[str, int] = field(default_factory=dict, repr=False)
    """Offset of each file in a plain tar."""

    def member(self, name: str) -> ArchiveMember:
        """Member with the given name, not read yet.

        Raises
        ------
        InputError
            If there is no such file.
        """
        if name not in self.members:
            raise InputError(f"{self.path}: {name} is missing; fetch the whole archive")
        return ArchiveMember(self.path, self.file, name, self.offsets.get(name, -1), self.members[name])

    def read(self, name: str, limit: int = LARGEST_FILE) -> bytes:
        """Content of one file; raises as `member` and `ArchiveMember.read`."""
        return self.member(name).read(limit)


def open_archive(path: Path, scratch: Path) -> Archive:
    """List an archive, and refuse contents that no data set needs.

    Parameters
    ----------
    path
        zip, tar, or compressed tar.
    scratch
        Folder to which a compressed tar is decompressed; a finished copy of the same file in it is reused.

    Raises
    ------
    InputError
        If it is missing, is damaged or has an unknown format, or holds a path or a link out of its own tree, a device, a duplicate name, or
        more than is plausible.
    OSError
        If it cannot be decompressed because the disk is full.
    """
    try:
        require_file(path)
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
        raise InputError(f"{path}: missing; fetch it first") from None
    except Exception as error:  # the libraries raise arbitrary errors
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise InputError(f"{path}: not a whole archive ({_reason(error)}); fetch it again") from None


def _zip(path: Path) -> Archive:
    members: dict[str, int] = {}
    with open_zip(path) as archive:
        for entry in archive.infolist():
            # Converted to a tar's member, so that both formats pass the same checks; the upper half of the attributes is Unix's mode.
            seen = tarfile.TarInfo(entry.filename)
            seen.size, mode = entry.file_size, entry.external_attr >> 16
            if entry.flag_bits & 1:
                raise InputError(f"{path}: {entry.filename} is encrypted; unpack it by hand")
            refuse_bomb(path, entry.filename, entry.file_size, entry.compress_size)
            if entry.is_dir():
                seen.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(mode):
                if entry.file_size > LARGEST_LINK:
                    raise lies(path, entry.filename, f"is a link of {entry.file_size} bytes")
                seen.type, seen.linkname = tarfile.SYMTYPE, archive.read(entry).decode(errors="replace")
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                seen.type = tarfile.CHRTYPE
            if accepted(path, seen):
                add_member(path, members, entry.filename, entry.file_size)
    # Members that share their bytes could each be within the ratio.
    refuse_bomb(path, "its content", sum(members.values()), path.stat().st_size)
    return Archive(path, members, path)


def _tar(path: Path, file: Path) -> Archive:
    try:
        archive = _listed(path, file, "utf-8")
    except UnicodeDecodeError:
        archive = _listed(path, file, "latin-1")
    end = max((archive.offsets[name] + size for name, size in archive.members.items()), default=0)
    if end > file.stat().st_size:
        raise InputError(f"{path}: is truncated; fetch it again")
    return archive


def _listed(path: Path, file: Path, encoding: str) -> Archive:
    """List a tar whose names have the given encoding."""
    archive = Archive(path, {}, file)
    with file.open("rb") as stream:
        _list_tar(archive, stream, "", encoding)
    return archive


def _list_tar(archive: Archive, stream: IO[bytes], prefix: str, encoding: str) -> None:
    """List the tar at the position of ``stream``, and the tars in it: ImageNet is a tar of a thousand tars."""
    with tarfile.open(fileobj=stream, mode="r:", encoding=encoding, errors="strict", tarinfo=Header) as tar:
        entries = [(entry.name, entry.size, entry.offset_data) for entry in tar if accepted(archive.path, entry)]
    for name, size, offset in entries:
        if name.endswith(".tar") and not prefix:
            stream.seek(offset)
            _list_tar(archive, stream, f"{name.removesuffix('.tar')}/", encoding)
        else:
            add_member(archive.path, archive.members, prefix + name, size)
            archive.offsets[prefix + name] = offset


def _decompressed(path: Path, opened: Callable[[Path], IO[bytes]], scratch: Path) -> Path:
    now = path.stat()
    target = scratch / f"{path.name}.{now.st_size}-{now.st_mtime_ns}.tar"
    if not target.is_file():
        with opened(path) as source:
            write_atomically(target, lambda file: [file.write(block) for block in _bounded(path, source)])
    return target


def _bounded(path: Path, source: IO[bytes]) -> Iterator[bytes]:
    compressed, total = path.stat().st_size, 0
    while block := source.read(DECOMPRESSED_AT_ONCE):
        total += len(block)
        refuse_bomb(path, "its content", total, compressed)
        yield block
