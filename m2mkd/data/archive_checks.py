"""What no archive of a data set holds, and what is passed over in one."""

import tarfile
from pathlib import Path, PurePosixPath
from typing import Self

from m2mkd.errors import InputError

LARGEST_RATIO = 200
"""Most bytes that a compressed byte may become; photographs stay below 2, text and pickles of pixels below 20."""
RATIO_MATTERS_FROM = 1 << 20
"""Bytes below which no ratio is a bomb."""
LARGEST_MEMBER = 1 << 38
"""Bytes; the training set of ImageNet is half of that."""
MOST_MEMBERS = 1 << 22
"""ImageNet has a third of that."""
LONGEST_NAME = 512
"""Characters of a path in an archive; all of a set are stored at the length of the longest."""
CLUTTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that systems add to the folders that people look at."""
LONG_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
LARGEST_HEADER = 1 << 16
"""Bytes of a name, a link or the attributes of a member, where they stand before it."""


class Header(tarfile.TarInfo):
    """A header of a tar whose size is looked at before tarfile goes by it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        # A negative size leads back to where the tar was read before, without end; a long header is read into memory as a whole.
        if entry.size < 0 or (entry.type in LONG_HEADERS and entry.size > LARGEST_HEADER):
            raise tarfile.ReadError(f"a header claims {entry.size} bytes")
        return entry


def accepted(path: Path, entry: tarfile.TarInfo) -> bool:
    """Whether a member is a file to be listed; a folder, a link inside the tree, or what a system adds to folders, is passed over.

    Raises
    ------
    InputError
        If it is nothing that an archive of images holds; names the archive at ``path``.
    """
    if entry.size < 0:
        raise lies(path, entry.name, f"claims {entry.size} bytes")
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
        raise lies(path, entry.name, f"is {what}") from None
    parts = PurePosixPath(entry.name).parts
    if not entry.isreg() or not parts or parts[-1].startswith("._") or parts[-1] in CLUTTER or "__MACOSX" in parts:
        return False
    if entry.issparse() or entry.size > LARGEST_MEMBER:
        raise lies(path, entry.name, f"claims {entry.size} bytes that are not there")
    return True


def add_member(path: Path, members: dict[str, int], name: str, size: int) -> None:
    """Take up a file of an archive, if there is none of its name, and room for it; raises as `accepted`."""
    if name in members:
        raise lies(path, name, "is there twice")
    if len(name) > LONGEST_NAME:
        raise lies(path, f"{name[:40]}...", f"is a name of {len(name)} characters")
    if len(members) == MOST_MEMBERS:
        raise InputError(f"{path}: holds more than {MOST_MEMBERS} files; fetch the archive of the right data set")
    members[name] = size


def refuse_bomb(path: Path, what: str, size: int, compressed: int) -> None:
    """Refuse what was compressed further than images can be; raises as `accepted`."""
    if size > RATIO_MATTERS_FROM and size > LARGEST_RATIO * compressed:
        raise lies(path, what, f"unpacks to more than {LARGEST_RATIO} times its size, as no photograph does")


def lies(path: Path, what: str, claim: str) -> InputError:
    """That an archive claims what cannot be, which no damage on the way does."""
    return InputError(f"{path}: {what} {claim}; do not use this file, fetch the original")
