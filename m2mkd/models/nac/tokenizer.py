"""ConvNeXt tokenizer with a learned positional grid on the channel axis (specification nac.md 3)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, LayerNorm2d
from timm.models.convnext import ConvNeXtStage
from torch import Tensor, nn

from m2mkd.config.models import TokenizerConfig
from m2mkd.errors import InputError


def resize_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Positional grid (C, h, w) interpolated to (C, *size), bicubic with antialiasing; the same tensor if the size is equal."""
    if grid.shape[1:] == size:
        return grid
    return F.interpolate(grid[None], size, mode="bicubic", antialias=True)[0]


def resize_grids(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """State dict with its positional grids resized to those of ``model``, which was built for another image size.

    The other tensors are unchanged, and so is ``model``.
    """
    own = model.state_dict()
    resized = dict(state)
    for name, tensor in state.items():
        if name.endswith("positional_grid") and name in own:
            height, width = own[name].shape[1:]
            resized[name] = resize_grid(tensor, (height, width))
    return resized


class Backbone(nn.Sequential):
    """ConvNeXt without final norm and head: a patchify stem and any number of timm's stages.

    Parameters
    ----------
    depths
        Blocks in each stage.
    widths
        Channels of each stage.
    stem_stride
        Side and stride of the stem's patches in pixels.
    """

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], stem_stride: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], stem_stride, stem_stride), LayerNorm2d(widths[0]))
        self.stages = nn.Sequential(
            *(
                ConvNeXtStage(
                    widths[max(i - 1, 0)],
                    width,
                    stride=2 if i else 1,
                    depth=depth,
                    ls_init_value=1e-6,
                    norm_layer=LayerNorm2d,
                    norm_layer_cl=LayerNorm,
                )
                for i, (depth, width) in enumerate(zip(depths, widths, strict=True))
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class ImageTokenizer(nn.Module):
    """Features of the backbone concatenated with a learned positional grid, as a sequence of tokens.

    Parameters
    ----------
    config
        Depths, stem and channels of the grid.
    state_dim
        Width D of the states; the stages have widths D / 4, D / 2 and D.
    image_size
        Side of the images in pixels, a multiple of the total stride.

    Attributes
    ----------
    width : int
        Width of a token: channels of the last stage and of the grid.

    Raises
    ------
    InputError
        If there are more than three stages, or the total stride does not divide the image size.
    """

    def __init__(self, config: TokenizerConfig, state_dim: int, image_size: int):
        super().__init__()
        stages = len(config.depths)
        if not 1 <= stages <= 3:
            raise InputError(f"tokenizer.depths has {stages} stages; a NAC's tokenizer has one to three")
        stride = config.stem_stride * 2 ** (stages - 1)
        if image_size % stride:
            raise InputError(f"image size {image_size} is not a multiple of the tokenizer's total stride {stride}; change one of them")
        side = image_size // stride
        widths = (state_dim // 4, state_dim // 2, state_dim)[:stages]
        self.backbone = Backbone(config.depths, widths, config.stem_stride)
        self.positional_grid = nn.Parameter(torch.randn(config.grid_dim, side, side))
        self.width = widths[-1] + config.grid_dim

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, T, width) of images (B, 3, S, S), in row-major order; the grid is interpolated for images of another size."""
        features = self.backbone(images)
        height, width = features.shape[2:]
        grid = resize_grid(self.positional_grid, (height, width)).expand(features.shape[0], -1, -1, -1)
        return torch.cat([features, grid.to(features.dtype)], dim=1).flatten(2).transpose(1, 2)
