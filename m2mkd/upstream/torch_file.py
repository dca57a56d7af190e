"""Torch files, old and new: their content as plain values, with tensors that stay in the file until they are used."""

import errno
import io
import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from m2mkd.errors import InputError
from m2mkd.locks import LACKING
from m2mkd.pickles import ForeignNameError, PickleError, walk
from m2mkd.upstream.torch_pickle import Storage, walk_torch

ZIP_START = b"PK\x03\x04"
DIRECTORY_LIMIT = 8 * 2**20
"""Maximum bytes of a zip's list of members: enough for a hundred thousand tensors."""
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""First bytes of a torch file before version 1.6."""


def read_torch(path: Path, file: BinaryIO) -> Any:
    """Content of a torch file, with a `StoredTensor` for each tensor.

    Parameters
    ----------
    path
        Name of the file in errors.
    file
        Opened at its beginning.

    Raises
    ------
    InputError
        If it is not a torch file, is damaged, or names anything that weights do not need.
    """
    try:
        mapped = _mapped(file)
        return _read_zip(file, mapped) if mapped[:4] == ZIP_START else _read_old(mapped)
    except ForeignNameError as error:
        raise InputError(f"{path}: holds more than weights ({error.name}), which may run code; give a file of weights") from None
    except (PickleError, ValueError, OSError, struct.error, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise InputError(f"{path}: is not a checkpoint, or is damaged: {error}; download it again") from None


def _mapped(file: BinaryIO) -> mmap.mmap:
    """File as a private memory map; a copy in memory where the file system has no memory maps."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        if error.errno not in (errno.ENODEV, *LACKING):
            raise
    content = file.read()
    copy = mmap.mmap(-1, len(content))
    copy[:] = content
    return copy


def _read_zip(file: BinaryIO, mapped: mmap.mmap) -> Any:
    """Read the format since 1.6: a zip of a pickle and of each storage, all uncompressed."""
    _limit_directory(mapped)
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
    root = next(iter(members), "").split("/")[0]
    if f"{root}/data.pkl" not in members:
        raise PickleError("it is an archive, but not one that torch saved")

    def content(name: str) -> memoryview:
        if name not in members:
            raise PickleError(f"{name} is missing")
        return _member(mapped, members[name])

    def find(key: str, size: int) -> memoryview:
        found = content(f"{root}/data/{key}")
        if found.nbytes != size:
            raise PickleError(f"data/{key} has {found.nbytes} bytes, but {size} are claimed")
        return found

    if f"{root}/byteorder" in members and bytes(content(f"{root}/byteorder")) != b"little":
        raise PickleError("its numbers are big-endian; save it again on a little-endian machine")
    return walk_torch(io.BytesIO(content(f"{root}/data.pkl")), find)


def _limit_directory(mapped: mmap.mmap) -> None:
    """Refuse a zip whose list of members would take much more memory than the file has bytes."""
    end = mapped.rfind(b"PK\x05\x06", max(0, len(mapped) - 2**16 - 22))
    if end < 0 or end + 22 > len(mapped):
        raise PickleError("its end is missing")
    (size,) = struct.unpack_from("<I", mapped, end + 12)
    if end >= 76 and mapped[end - 20 : end - 16] == b"PK\x06\x07":  # the record of large archives, 56 bytes before its locator
        (size,) = struct.unpack_from("<Q", mapped, end - 76 + 40)
    if size > DIRECTORY_LIMIT:
        raise PickleError(f"its list of members has {size} bytes")


def _member(mapped: mmap.mmap, member: zipfile.ZipInfo) -> memoryview:
    """Bytes of a member, compared with its checksum if one was saved."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise PickleError(f"{member.filename} is compressed, as torch never does")
    header = member.header_offset
    if mapped[header : header + 4] != ZIP_START:
        raise PickleError(f"{member.filename} is not at its recorded position")
    start = header + 30 + sum(struct.unpack_from("<HH", mapped, header + 26))
    if start + member.file_size > len(mapped):
        raise PickleError(f"{member.filename} ends after the end of the file")
    content = memoryview(mapped)[start : start + member.file_size]
    if member.CRC and zlib.crc32(content) != member.CRC:
        raise PickleError(f"{member.filename} does not match its saved checksum")
    return content


def _read_old(mapped: mmap.mmap) -> Any:
    """Read the format before 1.6: consecutive pickles, the last of them a list of storages, and then the storages."""
    found: dict[str, memoryview] = {}

    def find(key: str, size: int) -> memoryview:
        if key not in found or found[key].nbytes != size:
            raise PickleError(f"the storage {key} is missing, or its size differs from the claimed one")
        return found[key]

    claimed: dict[str, Storage] = {}
    magic, protocol, system = (walk(mapped, lambda _: False) for _ in range(3))
    if magic != OLD_MAGIC or protocol != OLD_PROTOCOL or not isinstance(system, dict) or not system.get("little_endian"):
        raise PickleError("it does not begin like a torch file")
    content = walk_torch(mapped, find, claimed)
    keys = walk(mapped, lambda _: False)
    at = mapped.tell()
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in claimed:
            raise PickleError("it lists a storage that nothing uses")
        end = at + 8 + claimed[key].size
        if end > len(mapped) or struct.unpack_from("<Q", mapped, at)[0] * claimed[key].dtype.itemsize != claimed[key].size:
            raise PickleError(f"the storage {key} differs from its claimed size, or ends after the end of the file")
        found[key] = memoryview(mapped)[at + 8 : end]
        at = end
    return content
