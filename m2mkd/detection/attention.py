"""Blocks on a map of tokens: windowed attention and decomposed relative positions, as in ViTDet (specification detection.md 3.1)."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from m2mkd.config.models import ViTConfig


class MapAttention(nn.Module):
    """Multi-head self-attention over all positions of a map.

    Parameters
    ----------
    width, heads, qkv_bias
        As in timm's ``Attention``; the parameters have the same names.
    table_size
        Side of the map that the tables of relative positions are made for; they start at zero. None: there are no relative positions.
    """

    def __init__(self, width: int, heads: int, *, qkv_bias: bool, table_size: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.relative = table_size is not None
        if table_size is not None:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_size - 1, width // heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_size - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to the same shape."""
        batch, height, width, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        if self.relative:
            # Adding them to the score of each pair would take (H W)^2 numbers per head. Instead, each row and column has its own channel,
            # in which its keys are 1, so that the product of queries and keys adds them.
            by_place = q.unflatten(2, (height, width))
            rows = torch.einsum("bnhwc,hkc->bnhwk", by_place, relative_table(self.rel_pos_h, height))
            columns = torch.einsum("bnhwc,wkc->bnhwk", by_place, relative_table(self.rel_pos_w, width))
            q = torch.cat([q, torch.cat([rows, columns], dim=-1).flatten(2, 3) / scale], dim=-1)
            marks = place_marks(height, width, q.dtype, q.device)
            k = torch.cat([k.to(q.dtype), marks.expand(batch, self.heads, -1, -1)], dim=-1)
        out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), scale=scale)
        return self.proj(out.transpose(1, 2).reshape(x.shape))


class MapBlock(nn.Module):
    """Pre-norm block on a map of tokens: attention, in windows or not, then an MLP or experts.

    Parameters
    ----------
    config
        Widths of the network.
    mlp_layer
        Builds the token-wise branch from the keywords of timm's ``Mlp``.
    drop_path
        Drop path rate of both branches.
    window_size
        Side of the windows in which tokens attend; None: all tokens attend to all.
    table_size
        As in `MapAttention`.
    """

    def __init__(
        self,
        config: ViTConfig,
        mlp_layer: Callable[..., nn.Module],
        drop_path: float,
        *,
        window_size: int | None,
        table_size: int | None,
    ) -> None:
        super().__init__()
        width = config.width
        norm = partial(nn.LayerNorm, width, eps=config.norm_eps)
        self.window_size = window_size
        self.norm1 = norm()
        self.attn = MapAttention(width, config.heads, qkv_bias=config.qkv_bias, table_size=table_size)
        self.norm2 = norm()
        self.mlp = mlp_layer(in_features=width, hidden_features=int(width * config.mlp_ratio), act_layer=nn.GELU)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x).flatten(1, 2)).view_as(x))

    def _attend(self, x: Tensor) -> Tensor:
        if self.window_size is None:
            return self.attn(x)
        return join_windows(self.attn(cut_windows(x, self.window_size)), x.shape[1], x.shape[2])


def relative_table(table: Tensor, size: int) -> Tensor:
    """Embedding of the distance from each query to each key on an axis.

    Parameters
    ----------
    table
        Embeddings (2 s - 1, c) of the distances from 1 - s to s - 1; resized linearly if n differs from s.
    size
        Number of positions n on the axis.

    Returns
    -------
    Tensor
        (n, n, c), the query's position first.
    """
    distances = 2 * size - 1
    if len(table) != distances:
        table = F.interpolate(table.T[None], size=distances, mode="linear")[0].T
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]


@lru_cache(maxsize=16)
def place_marks(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One-hot row and column (H W, H + W) of each place of a map; the same tensor is returned again, so it must not be changed in place."""
    row, column = torch.eye(height, dtype=dtype, device=device), torch.eye(width, dtype=dtype, device=device)
    return torch.cat([row.repeat_interleave(width, dim=0), column.repeat(height, 1)], dim=1)


def cut_windows(x: Tensor, size: int) -> Tensor:
    """Cut a map (B, H, W, d), padded with zeros at the right and bottom, into windows (B x windows, size, size, d), row by row."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
    rows = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return rows.transpose(2, 3).flatten(0, 2)


def join_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Join the windows of `cut_windows` into the map (B, ``height``, ``width``, d), without the padding."""
    size = windows.shape[1]
    x = windows.unflatten(0, (-1, -(-height // size), -(-width // size)))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
