"""ViT in stages: each stage is a module of its own, and the network is the stages in a row (specification vmoe.md 1.1)."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from timm.layers import Mlp, PatchEmbed, calculate_drop_path_rates
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from m2mkd.config.models import ViT
from m2mkd.errors import InputError
from m2mkd.models.stitch import Stitch

INIT_STD = 0.02
"""Standard deviation of the initial linear weights, class token and positions (specification vmoe.md 1.5)."""


class Stage(nn.Module):
    """Consecutive blocks of a ViT, with the embedding if they are the first and the classifier if they are the last.

    Calling a stage is the partial forward of the network. Its parameters carry the released stage-local names
    (specification vmoe.md 3.2).

    Parameters
    ----------
    config
        Widths of the network that the stage belongs to.
    blocks
        The stage's blocks, (B, N, d) to (B, N, d).
    first
        Whether the stage owns patch embedding, class token and positions.
    last
        Whether the stage owns the final norm and the head.
    image_size
        Side of the square images in pixels, a multiple of the patch size; used by the first stage.
    num_classes
        Number of classes C; used by the last stage.
    stitch_width
        Token width of the neighbouring stages where it differs in kind: a stitch layer then leads from it (unless first)
        and to it (unless last). None: the neighbours have this network's width.

    Raises
    ------
    InputError
        If ``image_size`` is not a multiple of the patch size.
    """

    def __init__(
        self,
        config: ViT,
        blocks: Iterable[nn.Module],
        *,
        first: bool,
        last: bool,
        image_size: int,
        num_classes: int,
        stitch_width: int | None = None,
    ) -> None:
        super().__init__()
        self.first = first
        self.last = last
        width = config.width
        if first:
            if image_size % config.patch_size:
                raise InputError(f"image size {image_size} is not a multiple of patch_size {config.patch_size}; choose another of the two")
            self.patch_embed = PatchEmbed(img_size=image_size, patch_size=config.patch_size, embed_dim=width)
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            self.pos_embed = nn.Parameter(torch.empty(1, (image_size // config.patch_size) ** 2 + 1, width))
            nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
            nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        self.pre_stitch = nn.Identity() if first or stitch_width is None else Stitch(stitch_width, width)
        self.blocks = nn.Sequential(*blocks)
        self.post_stitch = nn.Identity() if last or stitch_width is None else Stitch(width, stitch_width)
        if last:
            self.norm = nn.LayerNorm(width, eps=config.norm_eps)
            self.head = nn.Linear(width, num_classes)
            _init_linear(self.head)
        self.blocks.apply(_init_linear)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens (B, N, d) of images (B, 3, H, W): the class token, then the patches row by row."""
        patches = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage.

        Parameters
        ----------
        x
            Images (B, 3, H, W) for the first stage, else tokens (B, N, width of the stage before).

        Returns
        -------
        Tensor
            Logits (B, C) of the last stage, else tokens (B, N, width of the stage after).
        """
        if self.first:
            x = self.embed(x)
        x = self.post_stitch(self.blocks(self.pre_stitch(x)))
        # The norm works token by token, so that only the class token needs it.
        return self.head(self.norm(x[:, 0])) if self.last else x

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay spares: class token and positions."""
        return {"cls_token", "pos_embed"} if self.first else set()


class StagedTransformer(nn.Module):
    """A network that is nothing but its stages, each a module on its own.

    Parameters
    ----------
    stages
        The stages in order.
    """

    def __init__(self, stages: Iterable[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W)."""
        x = images
        for stage in self.stages:
            x = stage(x)
        return x

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay spares: class token and positions."""
        return {"stages.0.cls_token", "stages.0.pos_embed"}


class StagedViT(StagedTransformer):
    """ViT whose blocks are grouped in stages: teacher, meta model or incubation hybrid (specification vmoe.md 1.1).

    Parameters
    ----------
    config
        Architecture; ``depths`` gives the stages.
    image_size
        Side of the square images in pixels.
    num_classes
        Number of classes C.
    drop_path
        Drop path rate of the last block; the rates grow linearly from 0 over the network as built.
    """

    def __init__(self, config: ViT, *, image_size: int, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__(
            build_stage(config, index, image_size=image_size, num_classes=num_classes, drop_path=drop_path)
            for index in range(config.modules)
        )
        self.config = config


def build_stage(config: ViT, index: int, *, image_size: int, num_classes: int, drop_path: float = 0.0) -> Stage:
    """Build one stage of a staged ViT without the others.

    Parameters
    ----------
    config
        Architecture of the whole network.
    index
        Number of the stage, from 0.
    image_size, num_classes
        As in `StagedViT`.
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


def build_block(config: ViT, drop_path: float, mlp_layer: Callable[..., nn.Module] = Mlp) -> Block:
    """Pre-norm block with exact GELU, stochastic depth per sample and no layer scale.

    Parameters
    ----------
    config
        Widths of the block.
    drop_path
        Drop path rate of both residual branches.
    mlp_layer
        Makes the token-wise branch from the keywords of timm's ``Mlp``.
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


def incubation_config(meta: ViT, teacher: ViT, index: int) -> ViT:
    """Architecture of the network that incubates one teacher module (specification vmoe.md 5, MT).

    Parameters
    ----------
    meta, teacher
        Networks with as many stages and the same blocks, apart from their depths.
    index
        Stage that has the teacher's depth; every other has the meta model's.

    Raises
    ------
    InputError
        If the two differ in more than their depths, or if there is no such stage.
    """
    check_module_index(teacher, index)
    if meta.modules != teacher.modules:
        raise InputError(f"meta model has {meta.modules} modules and teacher {teacher.modules}; give both depths the same length")
    differing = [name for name in ViT.model_fields if name != "depths" and getattr(meta, name) != getattr(teacher, name)]
    if differing:
        raise InputError(f"meta model and teacher differ in {', '.join(differing)}; they may differ in depths only")
    depths = (*meta.depths[:index], teacher.depths[index], *meta.depths[index + 1 :])
    return meta.model_copy(update={"depths": depths})


def check_module_index(config: ViT, index: int) -> None:
    """Raise `InputError` unless the network has a module ``index`` (from 0; there is no counting from the end)."""
    if not 0 <= index < config.modules:
        raise InputError(f"module {index} does not exist: this network has modules 0 to {config.modules - 1}")


def stage_positions(config: ViT, index: int) -> range:
    """Positions in the whole network of the blocks of stage ``index``."""
    start = sum(config.depths[:index])
    return range(start, start + config.depths[index])


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
