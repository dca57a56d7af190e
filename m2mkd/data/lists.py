"""The lists and tables of text that stand beside the images of an archive, and finding one's way in its folders."""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from m2mkd.data.archives import Archive
from m2mkd.errors import InputError

LARGEST_LIST = 1 << 24
"""Bytes; those of the registered sets stay below a tenth."""
IMAGE = re.compile(r".+\.(jpe?g|jfif|png|bmp|webp|gif|tiff?|ico|ppm|pgm|tga|eps|avif|heic|jp2|jxl)", re.IGNORECASE)
"""Names of images, also of those that are not read: none is passed over without a word."""
TEXT = re.compile(
    r".+\.(txt|md|rst|csv|tsv|json|xml|html?|ya?ml|toml|pdf|log|py|m|mat|npy)|(readme|licen[cs]e|copying|authors|notice)([._-].*)?",
    re.IGNORECASE,
)
"""Names of what people put beside images."""


def is_image(name: str) -> bool:
    """Whether a file is called an image."""
    return IMAGE.fullmatch(name) is not None


def is_text(name: str) -> bool:
    """Whether a file among images is called something else than one; what has any other name there is taken for an image."""
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
    """Folders and name of a file below a folder; none for one that is elsewhere."""
    return PurePosixPath(name.removeprefix(root)).parts if name.startswith(root) else ()


def text_of(content: bytes) -> str:
    """Text in UTF-8, or in Latin-1 as older programs wrote it.

    Raises
    ------
    ValueError
        If it has characters that no text has.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise ValueError("it has characters that no text has")
    return text


def lines(archive: Archive, name: str) -> Iterator[tuple[int, str]]:
    """Lines of a list, each with its number from 1, without those that are blank; none where there is no such file.

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
    """Lines "key value".

    Raises
    ------
    InputError
        If there are none, a line has no value, or a key stands twice.
    """
    found: dict[str, str] = {}
    for number, line in lines(archive, name):
        key, blank, value = line.partition(" ")
        if not blank or key in found:
            raise InputError(f"{archive.path}: {name}, line {number}: '{line}' is no new number with a value; fetch the archive again")
        found[key] = value.strip()
    if not found:
        raise InputError(f"{archive.path}: {name} is missing or empty; fetch the archive again")
    return found


def label_of(labels: Mapping[str, int], name: str, archive: Archive, where: str) -> int:
    """Label of a class.

    Raises
    ------
    InputError
        If there is no class of that name; ``where`` says where it stands.
    """
    if name not in labels:
        raise InputError(f"{archive.path}: {where}: '{name}' is not a class of this set; fetch the archive again")
    return labels[name]


def integer(text: str, archive: Archive, where: str) -> int:
    """A number of digits.

    Raises
    ------
    InputError
        If it is none; ``where`` says where it stands.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InputError(f"{archive.path}: {where}: '{text}' is not a number; fetch the archive again")
    return int(text)
