"""CIFAR-100 in its original form: pickles of arrays, read without running what a pickle could hold."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2mkd.data.archives import Archive
from m2mkd.errors import InputError

SIDE = 32
HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""All that these pickles call: the making of arrays and, where a newer Python wrote them, of bytes."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def read_cifar(archives: Sequence[Archive]) -> tuple[tuple[str, ...], dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]]:
    """Class names, and for ``train`` and ``val`` the images (N, 32, 32, 3) and labels (N,).

    Raises
    ------
    InputError
        If a file is missing or damaged, holds more than arrays, or its labels do not fit its classes.
    """
    (archive,) = archives
    classes = tuple(name.decode() for name in _load(archive, "meta")[b"fine_label_names"])
    splits = {}
    for split, file in (("train", "train"), ("val", "test")):
        content = _load(archive, file)
        try:
            pixels = np.asarray(content[b"data"], np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
            labels = np.asarray(content[b"fine_labels"], np.int64)
        except (KeyError, ValueError) as error:
            raise InputError(f"{archive.path}: {file} is not a table of images ({error}); fetch the archive again") from None
        fit = f"{len(labels)} labels do not fit {len(pixels)} images of {len(classes)} classes"
        if len(labels) != len(pixels) or sorted(set(labels.tolist())) != list(range(len(classes))):
            raise InputError(f"{archive.path}: {file}: {fit}; fetch the archive again")
        splits[split] = pixels, labels
    return classes, splits


def _load(archive: Archive, file: str) -> dict[bytes, Any]:
    names = [name for name in archive.members if name == file or name.endswith(f"/{file}")]
    if not names:
        raise InputError(f"{archive.path}: {file} is missing; fetch the archive of the right data set")
    import io

    try:
        content = _Unpickler(io.BytesIO(archive.read(names[0])), encoding="bytes").load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise InputError(f"{archive.path}: {names[0]} cannot be read ({error}); fetch the archive again") from None
    if not isinstance(content, dict):
        raise InputError(f"{archive.path}: {names[0]} holds a {type(content).__name__}, not a table; fetch the archive again")
    return content
