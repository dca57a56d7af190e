"""Content of trainers' checkpoints: finding the weights, and their names in the network itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from m2mkd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state", "net")
"""Keys under which trainers keep the network's tensors."""
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Keys under which trainers keep the moving average of the tensors."""
AVERAGED_MODEL = "n_averaged"
"""Names that torch's ``AveragedModel`` saves in addition to the tensors of its ``module``."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes of all names if a network was saved inside DistributedDataParallel, AveragedModel, torch.compile or a LightningModule."""
DEPTH = 3
"""Maximum depth of nested containers."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights in a file, and the file's own description of them."""

    state: dict[str, "Tensor"]
    """Tensors by released name; mapped from the disk if the format allows."""
    config: dict[str, Any] = field(default_factory=dict)
    """Arguments given by the file itself: model name, stages, number of the stage."""
    choice: str | None = None
    """Choice between the weights of the last update and their moving average, if a file has both; else None."""


def unpack(content: Any, what: str = "checkpoint", *, ema: bool = False) -> Checkpoint:
    """Find the weights in a trainer's checkpoint.

    Parameters
    ----------
    content
        A plain state dict, a training checkpoint (one of ``CONTAINERS`` or ``AVERAGES``, or ``model_stages`` alone), or one module of a
        split teacher (``block_state_dict``, ``block_index``, ``divided_depths``, ``model_name``).
    what
        Name of the content in errors.
    ema
        Take the moving average of the weights.

    Raises
    ------
    InputError
        If there are no weights, or not the requested ones.
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
            known = f"{str(name)[:100] if isinstance(name, str | int) else _kind(name)} is not a tensor"
            raise InputError(f"{what}: holds no state dict ({known}); give a file with {', '.join(CONTAINERS)}, or a plain state dict")
        tensors[name] = tensor
    if not tensors:
        raise InputError(f"{what}: holds no state dict (it is empty); give a file with {', '.join(CONTAINERS)}, or a plain state dict")
    return Checkpoint(_unwrapped(tensors, what), config, choice)


def _chosen(content: Mapping[Any, Any], what: str, ema: bool) -> tuple[Mapping[Any, Any], str | None]:
    """Return the state dict inside a training checkpoint, and the choice between two of them."""
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
            raise InputError(f"{what}: only has a moving average of the weights, '{average}'; use it with --ema")
        else:
            break
    return content, choice


def _own_arguments(content: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """Arguments that one module of a split teacher gives about itself, as plain values of bounded size."""
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
    """Tensors by their names in the network itself, without the prefixes of any wrappers, in any order."""

    def wraps(prefix: str) -> bool:
        others = [name for name in state if not (name.startswith(prefix) or (prefix == "module." and name == AVERAGED_MODEL))]
        return not others and any(name.startswith(prefix) for name in state)

    while prefix := next(filter(wraps, WRAPPERS), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    # Single layers may have been compiled.
    names = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in state}
    if len(set(names.values())) < len(names):
        raise InputError(f"{what}: has a tensor under a compiled and under its plain name; save it again")
    return {names[name]: tensor for name, tensor in state.items()}


def _tensor(value: Any, what: str) -> "Tensor | None":
    """Tensor of this process or of a file; None for any other value."""
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
    """Type of a value, or the type that the file would have made."""
    from m2mkd.pickles import Built, Named

    return value.name if isinstance(value, Built | Named) else type(value).__name__
