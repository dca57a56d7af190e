"""Text lists and tables in an archive of images, and helpers for its folders."""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from m2mkd.data.archives import Archive
from m2mkd.errors import InputError

LARGEST_LIST = 1 << 24
"""Maximum bytes of a list; those of the registered sets have less than a tenth."""
IMAGE = re.compile(r".+\.(jpe?g|jfif|png|bmp|webp|gif|tiff?|ico|ppm|pgm|tga|eps|avif|heic|jp2|jxl)", re.IGNORECASE)
"""Pattern for names of images, including unreadable formats, so that no image is silently ignored."""
TEXT = re.compile(
    r".+\.(txt|md|rst|csv|tsv|json|xml|html?|ya?ml|toml|pdf|log|py|m|mat|npy)|(readme|licen[cs]e|copying|authors|notice)([._-].*)?",
    re.IGNORECASE,
)
"""Pattern for names of other files that people put next to images."""


def has_image_name(name: str) -> bool:
    """True if a file has the name of an image."""
    return IMAGE.fullmatch(name) is not None


def has_text_name(name: str) -> bool:
    """True if a file among images has the name of a text file; any other name is taken for an image."""
    return TEXT.fullmatch(PurePosixPath(name).name) is not None


def root_of(archive: Archive, landmark: str) -> str:
    """Folder in the archive that holds a file, with its slash.

    Raises
    ------
    InputError
        If there is no such file.
    """
    found = [name for name in archive.members if name == landmark or name.endswith(f"/{landmark}")]
    if not found:
        raise InputError(f"{archive.path}: {landmark} is missing; fetch the archive of the right data set")
    return min(found, key=len).removesuffix(landmark)


def below(root: str, name: str) -> tuple[str, ...]:
    """Folders and name of a file relative to a folder; empty if the file is elsewhere."""
    return PurePosixPath(name.removeprefix(root)).parts if name.startswith(root) else ()


def text_of(content: bytes) -> str:
    """Text in UTF-8, or in Latin-1 as in older files.

    Raises
    ------
    ValueError
        If it has characters that do not occur in text.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise ValueError("it has characters that do not occur in text")
    return text


def lines(archive: Archive, name: str) -> Iterator[tuple[int, str]]:
    """Lines of a list, each with its number from 1, without blank lines; empty if there is no such file.

    Raises
    ------
    InputError
        If it is not text.
    """
    try:
        text = text_of(archive.read(name, LARGEST_LIST)) if name in archive.members else ""
    except ValueError:
        raise InputError(f"{archive.path}: {name} is not text; fetch the archive again") from None
    return ((number, line.strip()) for number, line in enumerate(io.StringIO(text, newline=None), start=1) if line.strip())


def table(archive: Archive, name: str) -> dict[str, str]:
    """Table with lines "key value".

    Raises
    ------
    InputError
        If there are no lines, a line has no value, or a key is repeated.
    """
    found: dict[str, str] = {}
    for number, line in lines(archive, name):
        key, blank, value = line.partition(" ")
        if not blank or key in found:
            raise InputError(f"{archive.path}: {name}, line {number}: '{line}' is not a new number with a value; fetch the archive again")
        found[key] = value.strip()
    if not found:
        raise InputError(f"{archive.path}: {name} is missing or empty; fetch the archive again")
    return found


def label_of(labels: Mapping[str, int], name: str, archive: Archive, where: str) -> int:
    """Label of a class.

    Raises
    ------
    InputError
        If there is no class of that name; ``where`` is its location.
    """
    if name not in labels:
        raise InputError(f"{archive.path}: {where}: '{name}' is not a class of this set; fetch the archive again")
    return labels[name]


def integer(text: str, archive: Archive, where: str) -> int:
    """Integer in digits.

    Raises
    ------
    InputError
        If it is not an integer; ``where`` is its location.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InputError(f"{archive.path}: {where}: '{text}' is not a number; fetch the archive again")
    return int(text)
