"""V-MoE: a staged ViT with experts instead of MLPs, and its modules as students (specification vmoe.md 1.3, 1.4)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from m2mkd.config.models import VMoEConfig
from m2mkd.errors import InputError
from m2mkd.models.moe import ExpertInit, MoE
from m2mkd.models.moe_routing import VMoERouter
from m2mkd.models.stage import Stage
from m2mkd.models.staged import StagedTransformer
from m2mkd.models.vit import build_block, check_module_index, drop_path_rates, stage_positions


class VMoEStage(Stage):
    """Stage whose blocks may hold experts; its router's noise comes from an explicit generator."""

    def forward(self, x: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Run the stage.

        Parameters
        ----------
        x
            See `Stage`.
        noise
            Source of the router's noise, on the device of ``x``; required in training if the router has noise.
        """
        # Of the blocks alone: a search through all modules would take as long as some of them.
        layers = [block.mlp for block in self.blocks if isinstance(block.mlp, MoE) and block.mlp.draws_noise]
        tokens = self.pos_embed.shape[1] if self.first else x.shape[1]
        for layer in layers:
            shape = x.shape[0], tokens, layer.gate.out_features
            layer.noise = None if noise is None else torch.randn(shape, generator=noise, device=x.device)
        try:
            return super().forward(x)
        finally:
            # Under gradient checkpointing the backward pass runs the blocks again, with the same noise.
            if not self.grad_checkpointing:
                for layer in layers:
                    layer.noise = None


class VMoE(StagedTransformer):
    """Vision mixture of experts, in stages.

    Parameters
    ----------
    config
        Architecture; ``depths`` determines the stages, ``moe_blocks`` the blocks with experts, and ``stitch`` keeps or removes
        the stitch layers of the distilled modules between the stages.
    image_size
        Side of the square images in pixels.
    num_classes
        Number of classes C.
    drop_path
        Drop path rate of the last block; the rates grow linearly from 0.
    stitch_width
        Token width between the stages, that of the teacher; required if the stitch layers are kept, else ignored.
    expert_init
        Initial weights of the experts (specification vmoe.md 1.5).

    Raises
    ------
    InputError
        If the stitch layers are kept and ``stitch_width`` is missing, or if ``top_k`` exceeds the number of experts.
    """

    def __init__(
        self,
        config: VMoEConfig,
        *,
        image_size: int,
        num_classes: int,
        drop_path: float = 0.0,
        stitch_width: int | None = None,
        expert_init: ExpertInit = "trunc02",
    ) -> None:
        if config.stitch == "kept" and stitch_width is None:
            raise InputError("stitch: kept needs the teacher's width; give the student a teacher or set stitch: dropped")
        rates = drop_path_rates(drop_path, sum(config.depths))
        super().__init__(
            _build_stage(
                config,
                index,
                [rates[position] for position in stage_positions(config, index)],
                image_size=image_size,
                num_classes=num_classes,
                stitch_width=stitch_width if config.stitch == "kept" else None,
                expert_init=expert_init,
            )
            for index in range(config.modules)
        )
        self.config = config
        self.drops_stitch = config.stitch == "dropped"

    def forward(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W), or features as in `StagedTransformer`; ``noise`` as in `VMoEStage`."""
        if noise is None:
            return super().forward(images)
        x = images
        for stage in self.stages:
            x = stage(x, noise)
        return x


def build_vmoe_module(
    config: VMoEConfig,
    index: int,
    *,
    image_size: int,
    num_classes: int,
    stitch_width: int,
    drop_path: float = 0.0,
    expert_init: ExpertInit = "trunc02",
) -> Stage:
    """Build one module of a V-MoE as a student that fits between the meta model's stages (specification vmoe.md 1.4).

    Parameters
    ----------
    config
        Architecture of the whole V-MoE.
    index
        Number of the module, from 0 to ``config.modules`` - 1.
    image_size, num_classes
        See `VMoE`.
    stitch_width
        Token width of the meta model and the teacher.
    drop_path
        Drop path rate of the module's own last block; the rates grow linearly from 0 over the module alone.
    expert_init
        See `VMoE`.

    Returns
    -------
    Stage
        Maps images or tokens (B, N, ``stitch_width``) to tokens (B, N, ``stitch_width``) or logits (B, C).

    Raises
    ------
    InputError
        If there is no such module, or if ``top_k`` exceeds the number of experts.
    """
    check_module_index(config, index)
    return _build_stage(
        config,
        index,
        drop_path_rates(drop_path, config.depths[index]),
        image_size=image_size,
        num_classes=num_classes,
        stitch_width=stitch_width,
        expert_init=expert_init,
    )


def draw_noise(layer: nn.Module, inputs: tuple[Tensor]) -> None:
    """Draw the noise of a layer's router from torch's global generator; a forward pre-hook, for timm does not pass any."""
    if isinstance(layer, MoE) and layer.draws_noise:
        layer.noise = torch.randn(*inputs[0].shape[:-1], layer.gate.out_features, device=inputs[0].device)


def moe_positions(config: VMoEConfig) -> tuple[int, ...]:
    """Positions in the whole network of the blocks with experts, counted from 0."""
    return config.moe_positions


def token_layers(config: VMoEConfig, index: int, expert_init: ExpertInit) -> list[Callable[..., nn.Module]]:
    """Constructors of the token-wise branch of each block of stage ``index``, an MLP or experts, from the keywords of timm's ``Mlp``.

    Raises
    ------
    InputError
        If ``top_k`` exceeds the number of experts.
    """
    if config.top_k > config.experts:
        raise InputError(f"top_k {config.top_k} exceeds experts {config.experts}; lower top_k")
    moe_layer = partial(_moe_layer, experts=config.experts, top_k=config.top_k, expert_init=expert_init, router=_router(config))
    return [moe_layer if position in config.moe_positions else Mlp for position in stage_positions(config, index)]


def _build_stage(
    config: VMoEConfig,
    index: int,
    drop_paths: Sequence[float],
    *,
    image_size: int,
    num_classes: int,
    stitch_width: int | None,
    expert_init: ExpertInit,
) -> Stage:
    mlp_layers = token_layers(config, index, expert_init)
    return VMoEStage(
        config,
        [build_block(config, rate, mlp_layer) for rate, mlp_layer in zip(drop_paths, mlp_layers, strict=True)],
        first=index == 0,
        last=index == config.modules - 1,
        image_size=image_size,
        num_classes=num_classes,
        stitch_width=stitch_width,
    )


def _router(config: VMoEConfig) -> VMoERouter | None:
    if config.router == "naive":
        return None
    return VMoERouter(
        capacity_ratio=config.capacity_ratio,
        eval_capacity_ratio=config.eval_capacity_ratio or config.capacity_ratio,
        group_size=config.group_size,
        batch_priority=config.batch_priority,
        noise=config.router_noise,
        importance_weight=config.importance_weight,
        load_weight=config.load_weight,
    )


def _moe_layer(
    in_features: int, hidden_features: int, *, experts: int, top_k: int, expert_init: ExpertInit, router: VMoERouter | None, **_: Any
) -> MoE:
    """Adapt `MoE` to the keywords that timm's block passes; activation, norm and dropout are determined by the expert itself."""
    return MoE(in_features, hidden_features, experts=experts, top_k=top_k, expert_init=expert_init, router=router)
