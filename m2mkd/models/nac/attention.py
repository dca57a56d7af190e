"""Attention whose projections are modulated by codes and whose scores are biased by a kernel (specification nac.md 6, 8)."""

import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from torch import Tensor, nn

from m2mkd.models.nac.kernel import DotProductKernel
from m2mkd.models.nac.modulated import ModFC
from m2mkd.models.nac.noise import Noise, Select, drop_path, required

CACHED_SCORES = 1 << 18
"""Number of attention scores computed at a time without fused attention: 1 MB in single precision."""


class ReadInAttention(nn.Module):
    """Attention of input latents to image tokens; each latent has its own keys and values of every token.

    A key is ``W_k (s_u * x_v)`` with the scale ``s_u`` of latent u, so that ``q_u . k_uv = (s_u * W_k^T q_u) . x_v``, and
    likewise for values: the projections are applied to the latents, and keys of latent-token pairs are never formed
    (specification nac.md 17.1).

    Parameters
    ----------
    dim, token_width, code_dim
        Widths of a state, a token and a code.
    heads, head_dim
        Number and width of heads.
    """

    def __init__(self, dim: int, token_width: int, code_dim: int, heads: int, head_dim: int):
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.receiver_layernorm = nn.LayerNorm(dim)
        self.sender_layernorm = nn.LayerNorm(token_width)
        self.query_compiler = ModFC(dim, inner, code_dim, bias=False)
        self.key_compiler = ModFC(token_width, inner, code_dim, bias=False)
        self.value_compiler = ModFC(token_width, inner, code_dim, bias=False)
        self.exit_layer = ModFC(inner, dim, code_dim)
        self.layer_scale = LayerScale(dim, init_values=1.0)

    def forward(self, states: Tensor, tokens: Tensor, codes: Tensor) -> Tensor:
        """States (B, N, D) after attending to tokens (B, T, C), with codes (N, K) or (1, K)."""
        batch, latents, _ = states.shape
        tokens = self.sender_layernorm(tokens)
        queries = self.query_compiler(self.receiver_layernorm(states), codes).unflatten(-1, (self.heads, -1))
        head_dim = queries.shape[-1]

        key_weight = self.key_compiler.native_weight.unflatten(0, (self.heads, -1))
        absorbed = (queries.transpose(1, 2) @ key_weight).transpose(1, 2) * self.key_compiler.modulation(codes)[:, None]
        # A single head of N * H queries: the heads share their keys, which are the tokens.
        pooled = F.scaled_dot_product_attention(
            absorbed.reshape(batch, 1, latents * self.heads, -1), tokens[:, None], tokens[:, None], scale=head_dim**-0.5
        ).view(batch, latents, self.heads, -1)

        value_weight = self.value_compiler.native_weight.unflatten(0, (self.heads, -1))
        values = (pooled * self.value_compiler.modulation(codes)[:, None]).transpose(1, 2) @ value_weight.transpose(1, 2)
        return states + self.layer_scale(self.exit_layer(values.transpose(1, 2).flatten(2), codes))


class LatentAttention(nn.Module):
    """Attention among latents, with scores biased by a kernel on signatures.

    Parameters
    ----------
    dim, code_dim
        Widths of a state and of a code.
    heads, head_dim
        Number and width of heads.
    layer_scale
        Initial value of LayerScale.
    kernel
        Kernel on signatures; None in modules that are distilled alone, which attend densely.
    residual
        True: the receivers' states are added to the result. False: the senders have their own layer norm.
    drop_path
        Probability of dropping the branch for a sample in training.
    """

    def __init__(
        self,
        dim: int,
        code_dim: int,
        heads: int,
        head_dim: int,
        layer_scale: float,
        kernel: DotProductKernel | None = None,
        residual: bool = True,
        drop_path: float = 0.0,
    ):
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.residual = residual
        self.drop_path = drop_path
        self.kernel = kernel
        self.receiver_layernorm = nn.LayerNorm(dim)
        self.sender_layernorm = None if residual else nn.LayerNorm(dim)
        self.query_compiler = ModFC(dim, inner, code_dim, bias=False)
        self.key_compiler = ModFC(dim, inner, code_dim, bias=False)
        self.value_compiler = ModFC(dim, inner, code_dim, bias=False)
        self.exit_layer = ModFC(inner, dim, code_dim)
        self.layer_scale = LayerScale(dim, init_values=layer_scale)

    def forward(
        self,
        receivers: Tensor,
        senders: Tensor,
        receiver_codes: Tensor,
        sender_codes: Tensor,
        distance: Tensor | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """States of the receivers after attending to the senders.

        Parameters
        ----------
        receivers, senders
            States (B, U, D) and (B, V, D).
        receiver_codes, sender_codes
            Codes (U, K) and (V, K), or one row (1, K) for all.
        distance
            Distances (U, V) of signatures, if there is a kernel.
        noise
            Source of random numbers in training.

        Returns
        -------
        Tensor
            (B, U, D). A receiver without edges receives nothing.
        """
        bias = None if self.kernel is None or distance is None else self.kernel(distance, receivers.shape[0], noise)[:, None]

        def branch(select: Select) -> Tensor:
            normed = self.receiver_layernorm(select(receivers))
            sources = (self.sender_layernorm or self.receiver_layernorm)(select(senders))
            queries = self._split(self.query_compiler(normed, receiver_codes))
            keys = self._split(self.key_compiler(sources, sender_codes))
            values = self._split(self.value_compiler(sources, sender_codes))
            chosen = bias if bias is None or bias.shape[0] == 1 else select(bias)
            attended = self._attend(queries, keys, values, chosen).transpose(1, 2).flatten(2)
            return self.layer_scale(self.exit_layer(attended, receiver_codes))

        if self.training and self.drop_path:
            return drop_path(receivers, self.drop_path, required(noise), branch)
        update = branch(lambda x: x)
        return receivers + update if self.residual else update

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Attention (B, H, U, d) with an additive bias (B or 1, 1, U, V) on scores."""
        if bias is None or self.kernel is None:
            return F.scaled_dot_product_attention(queries, keys, values)
        bias = bias.to(queries.dtype)
        if self.kernel.cuts:
            isolated = bias.isneginf().all(dim=-1, keepdim=True)
            bias = bias.masked_fill(isolated, 0)
            return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias).masked_fill(isolated, 0)
        if bias.requires_grad and bias.device.type == "cpu":
            # PyTorch has no fused attention here whose bias has a gradient. Process only as many samples at a time as fit the cache.
            batched = queries, keys, values, bias.expand(queries.shape[0], -1, -1, -1)
            samples = max(1, CACHED_SCORES // (self.heads * bias.shape[-2] * bias.shape[-1]))
            return torch.cat([_attend(*part) for part in zip(*(tensor.split(samples) for tensor in batched), strict=True)])
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention (B, H, U, d) with an additive bias (B, 1, U, V), written out."""
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    scores += bias
    return scores.softmax(dim=-1) @ values
