"""Names of the released ViT, V-MoE and their stages (specification vmoe.md 3.2).

A released file holds each tensor under its name in the flat network, under its stage's name, or under both; experts are
one module each, or fused.
"""

import re
from collections.abc import Sequence

from m2mkd.models.names.sources import Source

_STAGE = re.compile(r"stages\.(\d+)\.(.+)")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"mlp\.(fc[12])\.(weight|bias)")
_GATE = re.compile(r"mlp\.gate\.(weight|bias)")
_LAYERS = {"fc1": "htoh4", "fc2": "h4toh"}


def vit_sources(name: str, shape: tuple[int, ...], depths: Sequence[int], moe: Sequence[int] = ()) -> tuple[Source, ...]:
    """Sources in a released file for our tensor ``name`` of a staged network.

    Parameters
    ----------
    name, shape
        Name and shape of the tensor here, ``stages.i.*``.
    depths
        Blocks in each stage.
    moe
        Positions in the whole network of the blocks with experts.
    """
    match = _STAGE.fullmatch(name)
    if match is None:
        return (Source((name,), shape),)
    index = int(match[1])
    start = sum(depths[:index])
    inside = [position - start for position in moe if start <= position < start + depths[index]]
    local = stage_sources(match[2], shape, depths[index], inside)
    staged = (Source(tuple(f"stages.{index}.{piece}" for piece in source.names), source.shape) for source in local)
    flat = (Source(tuple(_shifted(piece, start) for piece in source.names), source.shape) for source in local)
    return (*staged, *flat)


def stage_sources(name: str, shape: tuple[int, ...], blocks: int, moe: Sequence[int] = ()) -> tuple[Source, ...]:
    """Sources in a stage-local state for our tensor ``name``.

    Parameters
    ----------
    name, shape
        Name and shape of the tensor here, in the stage.
    blocks
        Number of the stage's blocks.
    moe
        Positions in the stage of the blocks with experts.
    """
    if name.startswith("pre_stitch."):
        return (Source((f"blocks.0.{name}",), shape),)
    if name.startswith("post_stitch."):
        return (Source((f"blocks.{blocks - 1}.{name}",), shape),)
    match = _BLOCK.fullmatch(name)
    if match is None or int(match[1]) not in moe:
        return (Source((name,), shape),)
    prefix = f"blocks.{match[1]}.moe"
    if gate := _GATE.fullmatch(match[2]):
        return (Source((f"{prefix}.gate.gate.{gate[1]}",), shape),)
    if experts := _EXPERTS.fullmatch(match[2]):
        layer, kind = _LAYERS[experts[1]], experts[2]
        single = Source(tuple(f"{prefix}.experts.{expert}.{layer}.{kind}" for expert in range(shape[0])), (1, *shape[1:]))
        return single, Source((f"{prefix}.experts.{layer}.{kind}",), shape)
    return (Source((name,), shape),)


def _shifted(name: str, start: int) -> str:
    """Name with its block counted from the network's first block."""
    return _BLOCK.sub(lambda block: f"blocks.{int(block[1]) + start}.{block[2]}", name)
