"""Weights for users and for the next phase: safetensors, with the id of their run in the header."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2mkd.errors import InputError
from m2mkd.files import sha256, write_atomically
from m2mkd.study.phase import WEIGHTS
from m2mkd.study.record import read_run_json

if TYPE_CHECKING:
    from torch import Tensor


def save_weights(folder: Path, state: Mapping[str, Any], run_id: str) -> None:
    """Write a state dict to ``folder``, with the run's id in the file's header.

    Parameters
    ----------
    folder
        Folder for ``model.safetensors``.
    state
        Tensors by name, of torch or of numpy.
    run_id
        Phase and key of the run.
    """
    metadata = {"run": run_id}
    if all(isinstance(tensor, np.ndarray) for tensor in state.values()):
        from safetensors.numpy import save as save_arrays

        content = save_arrays({name: np.ascontiguousarray(tensor) for name, tensor in state.items()}, metadata=metadata)
    else:
        from safetensors.torch import save

        content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, metadata=metadata)
    write_atomically(folder / WEIGHTS, lambda file: file.write(content))


def load_weights(folder: Path) -> dict[str, "Tensor"]:
    """Read the weights that a run published in ``folder``.

    Raises
    ------
    InputError
        If they are missing, damaged, or differ from those that the run recorded.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = checked_weights(folder)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is recorded, but is not a file of weights ({error}); {_again(folder)}") from None


def load_modules(folders: Sequence[Path], indices: Iterable[int]) -> "dict[int, dict[str, Tensor]]":
    """Read modules that runs published, by module number.

    Parameters
    ----------
    folders
        Folders of the runs.
    indices
        Expected module number of each.

    Raises
    ------
    InputError
        If a module is missing or damaged, or its record names another module than expected.
    """
    modules = {}
    for folder, index in zip(folders, indices, strict=True):
        modules[index] = load_weights(folder)
        found = read_run_json(folder)["config"].get("index")
        if found != index:
            raise InputError(f"{folder}: holds module {found}, but module {index} is expected here; remove {folder}")
    return modules


def checked_weights(folder: Path) -> Path:
    """Path of the weights file in ``folder``, after a check of its digest.

    Raises
    ------
    InputError
        If it is missing, or differs from what the run recorded.
    """
    path = folder / WEIGHTS
    try:
        record = read_run_json(folder)
        run_id, expected, actual = str(record["id"]), str(record["outputs"][WEIGHTS]), sha256(path)
    except (OSError, InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read with its record ({error}); {_again(folder)}") from None
    if run_id != f"{folder.parent.name}/{folder.name}":
        raise InputError(f"{path}: is the output of {run_id}, not of the folder it is in; {_again(folder)}")
    if actual != expected:
        raise InputError(f"{path}: sha256 is {actual[:12]}..., but the run recorded {expected[:12]}...; {_again(folder)}")
    return path


def _again(folder: Path) -> str:
    return f"remove {folder} and run the workflow again"


def stage_state(state: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Tensors of one stage of a staged network, by their stage-local names."""
    prefix = f"stages.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def stages_of(state: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Tensors of every stage of a staged network, by the stage's number."""
    return {index: stage_state(state, index) for index in sorted({int(name.split(".")[1]) for name in state})}
