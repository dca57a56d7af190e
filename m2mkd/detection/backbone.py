"""V-MoE backbone that maps images to one feature map (specification detection.md 3.1)."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.detection.attention import MapBlock
from m2mkd.models.moe import ExpertInit, MoE
from m2mkd.models.stage import INIT_STD, init_linear
from m2mkd.models.vit import drop_path_rates, stage_positions
from m2mkd.models.vmoe import token_layers


class BackboneStage(nn.Module):
    """Blocks of one stage; the first stage also has the embedding. Names match those of the V-MoE's stages.

    Parameters
    ----------
    blocks
        The stage's blocks.
    embedding
        Patch size, width and rows of the positions, for the first stage.
    """

    def __init__(self, blocks: Iterable[nn.Module], embedding: tuple[int, int, int] | None) -> None:
        super().__init__()
        if embedding is not None:
            patch_size, width, rows = embedding
            self.patch_embed = PatchEmbed(img_size=None, patch_size=patch_size, embed_dim=width, output_fmt="NHWC")
            self.pos_embed = nn.Parameter(torch.empty(1, rows, width))
            nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        self.blocks = nn.ModuleList(blocks)
        self.blocks.apply(init_linear)

    def embed(self, images: Tensor) -> Tensor:
        """Map (B, H, W, d) of images (B, 3, h, w): their patches and positions."""
        patches = self.patch_embed(images)
        return patches + resized_positions(self.pos_embed, patches.shape[1], patches.shape[2])


class Backbone(nn.Module):
    """V-MoE without class token, final norm and head.

    Parameters
    ----------
    config
        Architecture: ``backbone``, and the attention of its blocks.
    switches
        ``detection_init`` sets the rows of the position embedding, ``detection_attention`` enables windows.
    drop_path
        Drop path rate of the last block; the rates grow linearly from 0.
    expert_init
        Initial weights of the experts (specification vmoe.md 1.5).
    """

    def __init__(self, config: DetectorConfig, switches: DetectorSwitches, *, drop_path: float, expert_init: ExpertInit) -> None:
        super().__init__()
        vit = config.backbone
        rates = drop_path_rates(drop_path, sum(vit.depths))
        if switches.detection_init == "none":
            rows = (config.image_size // vit.patch_size) ** 2
        else:
            rows = (config.pretrain_size // vit.patch_size) ** 2 + 1
        stages = []
        for index in range(vit.modules):
            layers = zip(stage_positions(vit, index), token_layers(vit, index, expert_init), strict=True)
            blocks = [MapBlock(vit, mlp_layer, rates[position], **_attention(config, switches, position)) for position, mlp_layer in layers]
            stages.append(BackboneStage(blocks, None if index else (vit.patch_size, vit.width, rows)))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Features (B, d, H, W) of images (B, 3, h, w), one position per whole patch.

        Parameters
        ----------
        images
            Normalised images.
        noise
            Source of the router's noise, on the images' device; required in training if the router has noise.
        """
        x = self.stages[0].embed(images)  # type: ignore[operator]
        layers = [layer for layer in self.modules() if isinstance(layer, MoE) and layer.draws_noise]
        for layer in layers:
            shape = len(x), x.shape[1] * x.shape[2], layer.gate.out_features
            layer.noise = None if noise is None else torch.randn(shape, generator=noise, device=x.device)
        for stage in self.stages:
            for block in stage.blocks:  # type: ignore[union-attr]
                x = block(x)
        for layer in layers:
            layer.noise = None
        return x.permute(0, 3, 1, 2)


def resized_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Position embedding for a map of another size, by bicubic interpolation without antialiasing.

    Parameters
    ----------
    positions
        (1, s^2, d) of a square map, or (1, s^2 + 1, d) with the class token's first, which is left out.
    height, width
        Size of the new map.

    Returns
    -------
    Tensor
        (1, height, width, d).
    """
    side = math.isqrt(positions.shape[1])
    square = positions[:, positions.shape[1] - side**2 :].unflatten(1, (side, side))
    if (height, width) == (side, side):
        return square
    resized = F.interpolate(square.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def _attention(config: DetectorConfig, switches: DetectorSwitches, position: int) -> dict[str, int | None]:
    """Sizes of a block's window and of its tables of relative positions; None for one that it does not have."""
    if switches.detection_attention == "global":
        return {"window_size": None, "table_size": None}
    window = None if position in config.global_positions else config.window_size
    table = window or config.image_size // config.backbone.patch_size
    return {"window_size": window, "table_size": table if config.relative_positions else None}
