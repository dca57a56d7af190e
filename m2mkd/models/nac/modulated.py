"""Fully connected layers modulated by a latent's code (specification nac.md 2.1, 2.2)."""

import math

import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from torch import Tensor, nn

from m2mkd.models.nac.cache import Cache
from m2mkd.models.nac.noise import Noise, Select, drop_path, required


class ModFC(nn.Module):
    """Fully connected layer whose input channels are scaled by a function of the latent's code.

    Parameters
    ----------
    in_features, out_features
        Widths of input and output.
    code_dim
        Width K of a code.
    bias
        True if the output has a bias.
    """

    def __init__(self, in_features: int, out_features: int, code_dim: int, bias: bool = True):
        super().__init__()
        self.native_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.native_bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.scale = nn.Linear(code_dim, in_features, bias=False)
        self.scale_gain = nn.Parameter(torch.tensor(0.1))
        nn.init.kaiming_uniform_(self.native_weight, a=math.sqrt(5))
        self._modulation = Cache()

    def modulation(self, codes: Tensor) -> Tensor:
        """Scales (N, in) of the input channels for codes (N, K)."""

        def compute() -> Tensor:
            scales = self.scale(codes)
            return 1 + self.scale_gain * F.layer_norm(scales, scales.shape[-1:])

        return self._modulation(compute, codes, self.scale.weight, self.scale_gain)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """Map x (B, N, in) to (B, N, out) with codes (N, K), or one row of codes (1, K) for all latents."""
        return F.linear(x * self.modulation(codes), self.native_weight, self.native_bias)


class GEGLU(nn.Module):
    """First half of the last axis times the GELU of the second half."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., 2 h) to (..., h)."""
        values, gates = x.chunk(2, dim=-1)
        return values * F.gelu(gates)


class ModFFN(nn.Module):
    """Modulated feed-forward layer with layer norm, LayerScale, drop path and residual.

    Parameters
    ----------
    dim
        Width D of the states.
    code_dim
        Width K of a code.
    capacity
        Ratio of the hidden width to ``dim``, rounded.
    layer_scale
        Initial value of LayerScale.
    drop_path
        Probability of dropping the branch for a sample in training.
    """

    def __init__(self, dim: int, code_dim: int, capacity: float, layer_scale: float, drop_path: float = 0.0):
        super().__init__()
        hidden = round(capacity * dim)
        self.layernorm = nn.LayerNorm(dim)
        self.ffn = nn.ModuleList([ModFC(dim, 2 * hidden, code_dim), GEGLU(), ModFC(hidden, dim, code_dim)])
        self.layer_scale = LayerScale(dim, init_values=layer_scale)
        self.drop_path = drop_path

    def forward(self, states: Tensor, codes: Tensor, noise: Noise | None = None) -> Tensor:
        """States (B, N, D) after the layer, with codes (N, K) or (1, K)."""
        expand, activation, contract = self.ffn

        def branch(select: Select) -> Tensor:
            return self.layer_scale(contract(activation(expand(self.layernorm(select(states)), codes)), codes))

        if self.training and self.drop_path:
            return drop_path(states, self.drop_path, required(noise), branch)
        return states + branch(lambda x: x)
