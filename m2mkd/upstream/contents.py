"""What trainers save: which part of it is the weights, and which names they have in the network itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from m2mkd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state", "net")
"""Keys under which trainers keep the network's tensors."""
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Keys under which they keep the moving average of these."""
AVERAGED_MODEL = "n_averaged"
"""What torch's ``AveragedModel`` saves beside the tensors of its ``module``."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes of all names where a network was saved inside DistributedDataParallel, AveragedModel, torch.compile or a LightningModule."""
DEPTH = 3
"""Containers inside each other."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and what the file says of them."""

    state: dict[str, "Tensor"]
    """By released name; mapped from the disk where the format allows."""
    config: dict[str, Any] = field(default_factory=dict)
    """Arguments that the file itself gives: model name, stages, number of the stage."""
    choice: str | None = None
    """Which weights these are, where a file has those of the last update and their moving average; none where it has one."""


def unpack(content: Any, what: str = "checkpoint", *, ema: bool = False) -> Checkpoint:
    """Find the weights in what a trainer saved.

    Parameters
    ----------
    content
        A plain state dict, a training checkpoint (one of ``CONTAINERS`` or ``AVERAGES``, or ``model_stages`` alone), or one module of a
        split teacher (``block_state_dict``, ``block_index``, ``divided_depths``, ``model_name``).
    what
        What errors call it.
    ema
        Take the moving average of the weights.

    Raises
    ------
    InputError
        If there are no weights, or not those that are asked for.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{what}: holds a {_kind(content)}, but a mapping of names to tensors is needed")
    config: dict[str, Any] = {}
    choice = None
    if "block_state_dict" in content:
        state, config = content["block_state_dict"], _own_arguments(content, what)
        if not isinstance(state, Mapping):
            raise InputError(f"{what}: block_state_dict is a {_kind(state)}, but a mapping of names to tensors is needed")
    else:
        state, choice = _chosen(content, what, ema)
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = _tensor(value, what)
        if tensor is None or not isinstance(name, str):
            known = f"{str(name)[:100] if isinstance(name, str | int) else _kind(name)} is no tensor"
            raise InputError(f"{what}: holds no state dict ({known}); give a file with {', '.join(CONTAINERS)}, or a plain state dict")
        tensors[name] = tensor
    if not tensors:
        raise InputError(f"{what}: holds no state dict (it is empty); give a file with {', '.join(CONTAINERS)}, or a plain state dict")
    return Checkpoint(_unwrapped(tensors, what), config, choice)


def _chosen(content: Mapping[Any, Any], what: str, ema: bool) -> tuple[Mapping[Any, Any], str | None]:
    """The state dict inside a training checkpoint, and which of two it is."""
    choice = None
    for _ in range(DEPTH):
        last, average = (next((key for key in keys if isinstance(content.get(key), Mapping)), None) for keys in (CONTAINERS, AVERAGES))
        wanted, left = (average, last) if ema else (last, average)
        stages = content.get("model_stages")
        if wanted is not None:
            choice = f"takes '{wanted}' and leaves '{left}'" if left else choice
            content, ema = content[wanted], False
        elif ema and not any(isinstance(name, str) and name.endswith(AVERAGED_MODEL) for name in content):
            raise InputError(f"{what}: has no moving average of the weights ({', '.join(AVERAGES)}); leave out --ema")
        elif isinstance(stages, list | tuple) and all(isinstance(stage, Mapping) for stage in stages):
            return {f"stages.{index}.{name}": tensor for index, stage in enumerate(stages) for name, tensor in stage.items()}, choice
        elif average is not None:
            raise InputError(f"{what}: has nothing but a moving average of the weights, '{average}'; take it with --ema")
        else:
            break
    return content, choice


def _own_arguments(content: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """What one module of a split teacher says of itself, as plain values of a bounded size."""
    name, stage, depths = (content.get(key) for key in ("model_name", "block_index", "divided_depths"))
    if not (
        (name is None or (isinstance(name, str) and len(name) <= 100))
        and (stage is None or (type(stage) is int and 0 <= stage < 2**16))
        and (depths is None or (isinstance(depths, list | tuple) and all(type(depth) is int and depth < 2**16 for depth in depths)))
    ):
        raise InputError(f"{what}: its model_name, block_index or divided_depths is not what trainers save; give a plain state dict")
    given = {"model_name": name, "stage": stage, "divided_depths": depths}
    return {key: value for key, value in given.items() if value is not None}


def _unwrapped(state: dict[str, "Tensor"], what: str) -> dict[str, "Tensor"]:
    """The tensors by their names in the network itself, whatever it was wrapped into, and in whatever order."""

    def wraps(prefix: str) -> bool:
        others = [name for name in state if not (name.startswith(prefix) or (prefix == "module." and name == AVERAGED_MODEL))]
        return not others and any(name.startswith(prefix) for name in state)

    while prefix := next(filter(wraps, WRAPPERS), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    # Layers may have been compiled on their own.
    names = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in state}
    if len(set(names.values())) < len(names):
        raise InputError(f"{what}: has a tensor under a compiled and under its plain name; save it anew")
    return {names[name]: tensor for name, tensor in state.items()}


def _tensor(value: Any, what: str) -> "Tensor | None":
    """A tensor of this process or of a file; none for anything else."""
    import torch

    from m2mkd.pickles import PickleError
    from m2mkd.upstream.torch_pickle import StoredTensor

    if isinstance(value, StoredTensor):
        try:
            value = value.read()
        except PickleError as error:
            raise InputError(f"{what}: is damaged: {error}; download it again") from None
    return value.detach() if isinstance(value, torch.Tensor) else None


def _kind(value: Any) -> str:
    """What a value is, or would be had the file been allowed to make it."""
    from m2mkd.pickles import Built, Named

    return value.name if isinstance(value, Built | Named) else type(value).__name__
