"""Safetensors files: a single one, or several with an index."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.upstream.foreign import TEXT_LIMIT, open_foreign, read_text, require_genuine

if TYPE_CHECKING:
    from torch import Tensor


def is_safetensors(start: bytes) -> bool:
    """True if a file that begins with these bytes, at least nine, is a safetensors file: header size, then a JSON object."""
    return start[8:9] == b"{"


def read_header(path: Path) -> dict[str, str]:
    """Metadata in the header of a file; only the header is read.

    Raises
    ------
    InputError
        If it is not a safetensors file.
    """
    from safetensors import safe_open

    _require_small_header(path)
    with _explained(path, "is not a safetensors file", "give --kind and --config"), safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def read_tensors(path: Path, fix: str) -> dict[str, "Tensor"]:
    """Tensors of a file by name, mapped from the disk; ``fix`` is the advice for a damaged file.

    Raises
    ------
    InputError
        If it is not a safetensors file, or damaged.
    """
    from safetensors.torch import load_file

    _require_small_header(path)
    with _explained(path, "is damaged", fix):
        return load_file(path)


def read_index(path: Path) -> dict[str, list[str]]:
    """Names of the tensors in each file that an index names, by file name.

    Raises
    ------
    InputError
        If it is not an index, or names files in other folders.
    """
    names = parse_json(read_text(path), str(path)).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{path}: has no weight_map of tensors and their files; give a checkpoint or the index of a sharded one")
    files: dict[str, list[str]] = {}
    for name, file in names.items():
        # A file name with a folder could point anywhere.
        if not isinstance(file, str) or not file or file in {".", ".."} or set(file) & set("/\\\0"):
            raise InputError(f"{path}: weight_map says that {name} is in {str(file)[:100]!r}, which is not a file next to it; correct it")
        files.setdefault(file, []).append(name)
    return files


def _require_small_header(path: Path) -> None:
    with open_foreign(path) as file:
        start = file.read(64)
    require_genuine(path, start)
    if is_safetensors(start) and struct.unpack("<Q", start[:8])[0] > TEXT_LIMIT:
        raise InputError(f"{path}: has a header of more than {TEXT_LIMIT // 2**20} MiB, which no network needs; give another file")


@contextmanager
def _explained(path: Path, what: str, fix: str) -> Iterator[None]:
    """Report in one line the library's error about a file."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, MemoryError, OverflowError) as error:
        raise InputError(f"{path}: {what} ({str(error) or type(error).__name__}); {fix}") from None
