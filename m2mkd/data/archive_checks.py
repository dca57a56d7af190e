"""Checks of archives: contents that no data set has, and contents that are ignored."""

import posixpath
import tarfile
from pathlib import Path, PurePosixPath
from typing import Self

from m2mkd.errors import InputError

LARGEST_RATIO = 200
"""Maximum bytes that a compressed byte may become; photographs are below 2, text and pickles of pixels below 20."""
RATIO_MATTERS_FROM = 1 << 20
"""Bytes below which no ratio counts as a bomb."""
LARGEST_MEMBER = 1 << 38
"""Maximum bytes; the training set of ImageNet has half of that."""
MOST_MEMBERS = 1 << 22
"""Maximum files of an archive; ImageNet has a third of that."""
LONGEST_NAME = 512
"""Maximum characters of a path in an archive; all paths of a set are stored at the length of the longest."""
CLUTTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that operating systems add to folders."""
LONG_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
LARGEST_HEADER = 1 << 16
"""Maximum bytes of a name, a link or the attributes of a member that precede it."""


class Header(tarfile.TarInfo):
    """Tar header whose size is checked before tarfile uses it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        # A negative size leads back to an earlier position, in an endless loop; a long header is read into memory as a whole.
        if entry.size < 0 or (entry.type in LONG_HEADERS and entry.size > LARGEST_HEADER):
            raise tarfile.ReadError(f"a header claims {entry.size} bytes")
        return entry


def accepted(path: Path, entry: tarfile.TarInfo) -> bool:
    """True if a member is a file to list; folders, links inside the tree, and files of operating systems are ignored.

    Raises
    ------
    InputError
        If the member is something that no archive of images holds; names the archive at ``path``.
    """
    if entry.size < 0:
        raise lies(path, entry.name, f"claims {entry.size} bytes")
    if "\0" in entry.name + entry.linkname:
        raise tarfile.ReadError("a name holds a null byte")
    if what := _misplaced(entry):
        raise lies(path, entry.name, f"is {what}")
    parts = PurePosixPath(entry.name).parts
    if not entry.isreg() or not parts or parts[-1].startswith("._") or parts[-1] in CLUTTER or "__MACOSX" in parts:
        return False
    if entry.issparse() or entry.size > LARGEST_MEMBER:
        raise lies(path, entry.name, f"claims {entry.size} bytes that are not there")
    return True


def _misplaced(entry: tarfile.TarInfo) -> str | None:
    """Reason why a member must not be unpacked, or None."""
    # tarfile's own filter refuses the same, but Python has it only since 3.11.4.
    if "\\" in entry.name or _leads_out(entry.name):
        return "a path out of the archive"
    if entry.issym() or entry.islnk():
        # The target of a symbolic link is relative to the link, that of a hard link to the archive.
        start = PurePosixPath(entry.name).parent if entry.issym() else PurePosixPath()
        return "a link out of the archive" if _leads_out(str(start / entry.linkname)) else None
    return None if entry.isreg() or entry.isdir() else "a device or pipe"


def _leads_out(name: str) -> bool:
    return posixpath.normpath(name).startswith("/") or posixpath.normpath(name).split("/")[0] == ".."


def add_member(path: Path, members: dict[str, int], name: str, size: int) -> None:
    """Add a file of an archive, unless its name exists already or there are too many; raises as `accepted`."""
    if name in members:
        raise lies(path, name, "occurs twice")
    if len(name) > LONGEST_NAME:
        raise lies(path, f"{name[:40]}...", f"is a name of {len(name)} characters")
    if len(members) == MOST_MEMBERS:
        raise InputError(f"{path}: holds more than {MOST_MEMBERS} files; fetch the archive of the right data set")
    members[name] = size


def refuse_bomb(path: Path, what: str, size: int, compressed: int) -> None:
    """Refuse data that were compressed further than images can be; raises as `accepted`."""
    if size > RATIO_MATTERS_FROM and size > LARGEST_RATIO * compressed:
        raise lies(path, what, f"unpacks to more than {LARGEST_RATIO} times its size, as no photograph does")


def lies(path: Path, what: str, claim: str) -> InputError:
    """Error about an impossible claim of an archive, which accidental damage does not cause."""
    return InputError(f"{path}: {what} {claim}; do not use this file, fetch the original")
