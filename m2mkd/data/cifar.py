"""CIFAR-100 in its original form: pickles of arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from m2mkd.data.archives import Archive
from m2mkd.data.lists import text_of
from m2mkd.data.pickled_tables import LARGEST_PICKLE, read_pickle
from m2mkd.errors import InputError
from m2mkd.pickles import PickleError

CIFAR_SIDE = 32


class CifarSplit(NamedTuple):
    """Images of a split, N of them."""

    pixels: NDArray[np.uint8]
    """(N, 32, 32, 3)."""
    labels: NDArray[np.int64]
    """(N,)."""
    names: tuple[str, ...]
    """N names, or none if the file does not contain them."""


def read_cifar(archives: Sequence[Archive]) -> tuple[tuple[str, ...], dict[str, CifarSplit]]:
    """Class names, and the images of ``train`` and ``val``.

    Raises
    ------
    InputError
        If a file is missing or damaged, holds more than arrays, or its labels do not fit its classes.
    """
    (archive,) = archives
    classes = tuple(_names(_load(archive, "meta"), archive))
    splits = {}
    for split, file in (("train", "train"), ("val", "test")):
        content = _load(archive, file)
        try:
            pixels = _integers(content, b"data")
            if pixels.dtype != np.uint8:
                raise ValueError(f"its pixels are {pixels.dtype}")
            pixels = pixels.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
            labels = _integers(content, b"fine_labels").astype(np.int64)
        except ValueError as error:
            raise InputError(f"{archive.path}: {file} is not a table of images ({error}); fetch the archive again") from None
        fit = f"{len(labels)} labels do not fit {len(pixels)} images of {len(classes)} classes"
        if labels.ndim != 1 or len(labels) != len(pixels) or sorted(set(labels.tolist())) != list(range(len(classes))):
            raise InputError(f"{archive.path}: {file}: {fit}; fetch the archive again")
        splits[split] = CifarSplit(pixels, labels, _texts(content.get(b"filenames")))
    return classes, splits


def _texts(column: object) -> tuple[str, ...]:
    """Column of texts; empty if it is not one."""
    if not isinstance(column, list) or not all(isinstance(value, bytes | str) for value in column):
        return ()
    return tuple(value.decode(errors="replace") if isinstance(value, bytes) else value for value in column)


def _names(table: Mapping[bytes, Any], archive: Archive) -> list[str]:
    names = table.get(b"fine_label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise InputError(f"{archive.path}: meta names no fine classes; fetch the archive of the right data set")
    try:
        return [text_of(name) if isinstance(name, bytes) else name for name in names]
    except ValueError as error:
        raise InputError(f"{archive.path}: meta: a class has no name ({error}); fetch the archive again") from None


def _integers(table: Mapping[bytes, Any], name: bytes) -> NDArray[Any]:
    """Column of a table, which is an array or a list of numbers."""
    column = table.get(name)
    if isinstance(column, np.ndarray):
        return column
    if isinstance(column, list) and all(isinstance(value, int) for value in column):
        return np.array(column, np.int64)
    raise ValueError(f"{name.decode()} is missing, or is not a column of integers")


def _load(archive: Archive, file: str) -> dict[bytes, Any]:
    names = [name for name in archive.members if name == file or name.endswith(f"/{file}")]
    if not names:
        raise InputError(f"{archive.path}: {file} is missing; fetch the archive of the right data set")
    try:
        content = read_pickle(archive.read(names[0], LARGEST_PICKLE))
    except PickleError as error:
        raise InputError(f"{archive.path}: {names[0]} cannot be read ({error}); fetch the archive again") from None
    if not isinstance(content, dict):
        raise InputError(f"{archive.path}: {names[0]} holds a {type(content).__name__}, not a table; fetch the archive again")
    return content
