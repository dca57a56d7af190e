"""Reader of third-party files: only the weights are read, and nothing in the files is run."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.upstream.contents import Checkpoint, unpack
from m2mkd.upstream.foreign import open_foreign, require_genuine
from m2mkd.upstream.safetensors_file import is_safetensors, read_index, read_tensors

INDEX = ".json"
"""Suffix of the index of a checkpoint in several files."""
NAMES_OF_A_TENSOR = 8
"""Maximum average number of names for each number in a file: released files have two. Copies of shared numbers take memory."""


def read(path: Path, *, ema: bool = False) -> Checkpoint:
    """Read a checkpoint: torch's format or safetensors, detected from the content, or the index (``*.json``) of several files.

    Optimiser moments stay on the disk: the file is mapped, and only tensors that are used are read.

    Parameters
    ----------
    path
        Path of the checkpoint or its index.
    ema
        Take the moving average of the weights.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a checkpoint, holds more than weights, claims more numbers than it has, or has no weights.
    """
    files = _files(path)
    content = _content(path) if path.suffix != INDEX else _joined(path)
    found = unpack(content, str(path), ema=ema)
    claimed, size = sum(tensor.numel() * tensor.itemsize for tensor in found.state.values()), sum(file.stat().st_size for file in files)
    if claimed > NAMES_OF_A_TENSOR * size:
        raise InputError(f"{path}: its tensors would take {claimed} bytes, but it has {size}: many share the same numbers; save it again")
    return found


def checkpoint_digest(path: Path) -> str:
    """sha256 of a checkpoint; for several files, that of the lines that ``sha256sum`` prints for them and the index, sorted by name."""
    files = _files(path)
    if len(files) == 1:
        return sha256(path)
    return hashlib.sha256("".join(f"{sha256(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """Files of a checkpoint, sorted by name."""
    return [path] if path.suffix != INDEX else sorted({path, *(path.parent / file for file in read_index(path))})


def _joined(path: Path) -> dict[str, Any]:
    """Tensors of a checkpoint in several files; from each file, those that the index assigns to it."""
    content: dict[str, Any] = {}
    for file, names in read_index(path).items():
        there = _content(path.parent / file)
        for name in names:
            if not isinstance(there, Mapping) or name not in there:
                raise InputError(f"{path.parent / file}: lacks {name}, which {path.name} says is in it; download both again")
            content[name] = there[name]
    return content


def _content(path: Path) -> Any:
    """Content of a file; tensors stay in it if the format allows."""
    with open_foreign(path) as file:
        start = file.read(64)
        require_genuine(path, start)
        if not is_safetensors(start):
            from m2mkd.upstream.torch_file import read_torch

            file.seek(0)
            return read_torch(path, file)
    return read_tensors(path, "download it again")
