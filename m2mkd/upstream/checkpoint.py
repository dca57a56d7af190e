"""Files that others wrote: opened without running anything in them, and only the weights are read."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2mkd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

CONTAINERS = ("model", "state_dict")
"""Keys under which trainers keep the network's tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and what the file says of them."""

    state: dict[str, "Tensor"]
    """By released name; mapped from the disk where the format allows."""
    config: dict[str, Any] = field(default_factory=dict)
    """Arguments that the file itself gives: model name, stages, number of the stage."""


def read(path: Path) -> Checkpoint:
    """Read a checkpoint: torch's format or safetensors, whichever it is.

    Optimiser moments stay on the disk: the file is mapped, and only tensors that are used are ever read.

    Raises
    ------
    InputError
        If the file is absent or damaged, would run code, or holds no weights.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a checkpoint") from None
    return unpack(_read_safetensors(path) if start[8:] == b"{" else _read_torch(path), str(path))


def unpack(content: Any, what: str = "checkpoint") -> Checkpoint:
    """Find the weights in what a trainer saved.

    Parameters
    ----------
    content
        A plain state dict, a training checkpoint (``model``, or ``model_stages`` alone), or one module of a split teacher
        (``block_state_dict``, ``block_index``, ``divided_depths``, ``model_name``).
    what
        What errors call it.

    Raises
    ------
    InputError
        If there are no weights.
    """
    import torch

    if not isinstance(content, Mapping):
        raise InputError(f"{what}: holds a {type(content).__name__}, but a mapping of names to tensors is needed")
    config: dict[str, Any] = {}
    state: Any = content
    if "block_state_dict" in content:
        state = content["block_state_dict"]
        names = {"model_name": "model_name", "block_index": "stage", "divided_depths": "divided_depths"}
        config = {ours: content[theirs] for theirs, ours in names.items() if theirs in content}
    elif key := next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None):
        state = content[key]
    elif isinstance(stages := content.get("model_stages"), list | tuple) and all(isinstance(stage, Mapping) for stage in stages):
        state = {f"stages.{index}.{name}": tensor for index, stage in enumerate(stages) for name, tensor in stage.items()}
    if not isinstance(state, Mapping):
        raise InputError(f"{what}: block_state_dict is a {type(state).__name__}, but a mapping of names to tensors is needed")
    other = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if not state or other:
        found = f"{other[0]} is no tensor" if other else "it is empty"
        raise InputError(f"{what}: holds no state dict ({found}); give a file with {', '.join(CONTAINERS)}, or a plain state dict")
    if all(name.startswith("module.") for name in state):  # as saved from DistributedDataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return Checkpoint({name: tensor.detach() for name, tensor in state.items()}, config)


def _read_safetensors(path: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is damaged ({_line(error)}); download it again") from None


def _read_torch(path: Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if code := re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error)):
            raise InputError(f"{path}: holds more than weights ({code[1]}), which may run code; give a file of weights") from None
        raise InputError(f"{path}: is not a checkpoint, or is damaged; download it again") from None
    except (RuntimeError, ValueError, KeyError, IndexError, EOFError, AttributeError, TypeError, OSError) as error:
        raise InputError(f"{path}: is not a checkpoint, or is damaged ({_line(error)}); download it again") from None


def _harmless() -> list[Any]:
    """Classes of values, not weights, that trainers save beside them: parsed arguments and numpy's numbers."""
    import numpy as np
    from numpy._core import multiarray

    numbers = [np.dtype, *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool"))]
    return [argparse.Namespace, *numbers, multiarray.scalar, (multiarray.scalar, "numpy.core.multiarray.scalar")]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
