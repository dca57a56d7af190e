"""ViT in stages: each stage is a separate module, and the network is the sequence of stages (specification vmoe.md 1.1)."""

from collections.abc import Callable
from functools import partial
from typing import cast

from timm.layers import Mlp, calculate_drop_path_rates
from timm.models.vision_transformer import Block
from torch import nn

from m2mkd.config.models import ViTConfig
from m2mkd.errors import InputError
from m2mkd.models.stage import Stage
from m2mkd.models.staged import StagedTransformer


class StagedViT(StagedTransformer):
    """ViT whose blocks are grouped in stages: teacher, meta model or incubation hybrid (specification vmoe.md 1.1).

    Parameters
    ----------
    config
        Architecture; ``depths`` determines the stages.
    image_size
        Side of the square images in pixels.
    num_classes
        Number of classes C.
    drop_path
        Drop path rate of the last block; the rates grow linearly from 0 over the network as built.
    """

    def __init__(self, config: ViTConfig, *, image_size: int, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__(
            build_stage(config, index, image_size=image_size, num_classes=num_classes, drop_path=drop_path)
            for index in range(config.modules)
        )
        self.config = config


def build_stage(config: ViTConfig, index: int, *, image_size: int, num_classes: int, drop_path: float = 0.0) -> Stage:
    """Build one stage of a staged ViT without the others.

    Parameters
    ----------
    config
        Architecture of the whole network.
    index
        Number of the stage, from 0.
    image_size, num_classes
        See `StagedViT`.
    drop_path
        Drop path rate of the whole network's last block.

    Raises
    ------
    InputError
        If there is no such stage.
    """
    check_module_index(config, index)
    positions = stage_positions(config, index)
    rates = drop_path_rates(drop_path, sum(config.depths))
    blocks = [build_block(config, rates[position]) for position in positions]
    last = index == config.modules - 1
    return Stage(config, blocks, first=index == 0, last=last, image_size=image_size, num_classes=num_classes)


def build_block(config: ViTConfig, drop_path: float, mlp_layer: Callable[..., nn.Module] = Mlp) -> Block:
    """Pre-norm block with exact GELU, stochastic depth per sample and no layer scale.

    Parameters
    ----------
    config
        Widths of the block.
    drop_path
        Drop path rate of both residual branches.
    mlp_layer
        Builds the token-wise branch from the keywords of timm's ``Mlp``.
    """
    return Block(
        config.width,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=config.qkv_bias,
        drop_path=drop_path,
        norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
        mlp_layer=mlp_layer,
    )


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """Drop path rate of each of ``depth`` blocks, linear from 0 to ``drop_path`` (a single block has 0)."""
    return cast(list[float], calculate_drop_path_rates(drop_path, depth))


def incubation_config(meta: ViTConfig, teacher: ViTConfig, index: int) -> ViTConfig:
    """Architecture of the network that incubates one teacher module (specification vmoe.md 5, MT).

    Parameters
    ----------
    meta, teacher
        Networks with as many stages and the same blocks, apart from their depths.
    index
        Stage that has the teacher's depth; all others have the meta model's.

    Raises
    ------
    InputError
        If the two differ in more than their depths, or if there is no such stage.
    """
    check_module_index(teacher, index)
    if meta.modules != teacher.modules:
        raise InputError(f"meta model has {meta.modules} modules and teacher {teacher.modules}; give both depths the same length")
    differing = [name for name in ViTConfig.model_fields if name != "depths" and getattr(meta, name) != getattr(teacher, name)]
    if differing:
        raise InputError(f"meta model and teacher differ in {', '.join(differing)}; they may differ in depths only")
    depths = (*meta.depths[:index], teacher.depths[index], *meta.depths[index + 1 :])
    return meta.model_copy(update={"depths": depths})


def check_module_index(config: ViTConfig, index: int) -> None:
    """Raise `InputError` unless the network has a module ``index`` (from 0; negative indices are not supported)."""
    if not 0 <= index < config.modules:
        raise InputError(f"module {index} does not exist: this network has modules 0 to {config.modules - 1}")


def stage_positions(config: ViTConfig, index: int) -> range:
    """Positions in the whole network of the blocks of stage ``index``."""
    start = sum(config.depths[:index])
    return range(start, start + config.depths[index])
