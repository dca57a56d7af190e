"""Simple feature pyramid: five levels from one map (specification detection.md 3.2)."""

from functools import partial

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

channel_norm = partial(LayerNorm2d, eps=1e-6)
"""Layer norm over the channels at each position."""


class SimpleFeaturePyramid(nn.Module):
    """Feature maps at a quarter, half, once, twice and four times the stride of the input map.

    Parameters
    ----------
    width
        Channels of the input, a multiple of 4.
    channels
        Channels of each level.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        resamplers: list[tuple[int, list[nn.Module]]] = [
            (quarter, [_doubled(width, half), channel_norm(half), nn.GELU(), _doubled(half, quarter)]),
            (half, [_doubled(width, half)]),
            (width, []),
            (width, [nn.MaxPool2d(2)]),
        ]
        self.levels = nn.ModuleList(nn.Sequential(*layers, *_tail(inner, channels)) for inner, layers in resamplers)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Levels (B, channels, h, w), finest first, from features (B, width, H, W)."""
        maps = [level(features) for level in self.levels]
        return [*maps, F.max_pool2d(maps[-1], 1, stride=2)]


def _doubled(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)


def _tail(inputs: int, channels: int) -> list[nn.Module]:
    norm = {"norm_layer": channel_norm, "activation_layer": None}
    return [Conv2dNormActivation(inputs, channels, 1, **norm), Conv2dNormActivation(channels, channels, 3, **norm)]
