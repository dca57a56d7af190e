"""State dicts of the released ViT and V-MoE in this package's layout (specification vmoe.md 3)."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from m2mkd.errors import InputError

_STAGE = re.compile(r"stages\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"(blocks\.\d+)\.moe\.experts\.(?:(\d+)\.)?(htoh4|h4toh)\.(weight|bias)")
_GATE = re.compile(r"(blocks\.\d+)\.moe\.gate\.gate\.(weight|bias)")
_STITCH = re.compile(r"blocks\.(\d+)\.(pre|post)_stitch\.(.+)")
_LAYERS = {"htoh4": "fc1", "h4toh": "fc2"}


def vit_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a staged ViT.

    Parameters
    ----------
    state
        Released ``model`` dict: each tensor under its name in the flat network and under its stage's.

    Returns
    -------
    dict
        Tensors by the names of `m2mkd.models.vit.StagedViT`; the flat half is left out.

    Raises
    ------
    InputError
        If the dict names no stage.
    """
    return {f"stages.{index}.{key}": tensor for index, stage in split_stages(state).items() for key, tensor in stage.items()}


def vmoe_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a V-MoE, with or without stitch layers.

    Parameters
    ----------
    state
        Released ``model`` dict, with one module an expert or with fused experts.

    Returns
    -------
    dict
        Tensors by the names of `m2mkd.models.vmoe.VMoE`.

    Raises
    ------
    InputError
        If the dict names no stage, lacks an expert, or has a stitch layer inside a stage.
    """
    return {
        f"stages.{index}.{key}": tensor
        for index, stage in split_stages(state).items()
        for key, tensor in vmoe_stage_state_dict(stage).items()
    }


def split_stages(state: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Stage-local states of a released ``model`` dict by stage, without the flat half.

    Raises
    ------
    InputError
        If the dict names no stage.
    """
    stages: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := _STAGE.fullmatch(name):
            stages.setdefault(int(match[1]), {})[match[2]] = tensor
    if not stages:
        raise InputError("checkpoint has no tensor named stages.*; give the released 'model' dict")
    return dict(sorted(stages.items()))


def vmoe_stage_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of one stage of a V-MoE, or of a student module.

    Parameters
    ----------
    state
        Released stage-local dict: an item of ``model_stages``, or of `split_stages`.

    Returns
    -------
    dict
        Tensors by the names of `m2mkd.models.vit.Stage`. Experts are stacked on the first axis: weights (E, out, in),
        biases (E, out); stitch layers belong to the stage instead of its outermost blocks.

    Raises
    ------
    InputError
        If an expert is missing, or if a stitch layer is inside the stage.
    """
    outermost = {"pre": 0, "post": max(_block_numbers(state), default=0)}
    experts: dict[str, dict[int, Tensor]] = {}
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if match := _EXPERTS.fullmatch(name):
            block, expert, layer, kind = match.groups()
            key = f"{block}.mlp.{_LAYERS[layer]}.{kind}"
            if expert is None:
                ours[key] = tensor
            else:
                experts.setdefault(key, {})[int(expert)] = tensor
        elif match := _GATE.fullmatch(name):
            ours[f"{match[1]}.mlp.gate.{match[2]}"] = tensor
        elif match := _STITCH.fullmatch(name):
            if int(match[1]) != outermost[match[2]]:
                raise InputError(f"checkpoint has {name} inside a stage; stitch layers belong to its first and last block")
            ours[f"{match[2]}_stitch.{match[3]}"] = tensor
        else:
            ours[name] = tensor
    return ours | {key: _stack(key, parts) for key, parts in experts.items()}


def _block_numbers(names: Iterable[str]) -> list[int]:
    return [int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name))]


def _stack(key: str, parts: dict[int, Tensor]) -> Tensor:
    """Join the tensors (1, ...) of the experts, which must be numbered 0 to E - 1."""
    if sorted(parts) != list(range(len(parts))):
        raise InputError(f"checkpoint has experts {sorted(parts)} for {key}; some are missing")
    return torch.cat([parts[expert] for expert in range(len(parts))])
