"""Matrix products of the experts: token-expert pairs sorted by expert, one product per expert (specification vmoe.md 1.2).

One interface for all devices. If torch has an efficient grouped matrix product (bfloat16 on Hopper and later), all
experts are one kernel and nothing waits for the device. Otherwise each expert has its own contiguous products, written
directly into the rows of preallocated results and into its slice of the stacked gradients.

All experts are on one device; expert parallelism is out of scope.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Dispatch:
    """Rows that each expert computes, and rows with each token's results.

    There are P token-expert pairs: all T x k, or on the contiguous path those not dropped by a capacity limit.
    """

    rows: Tensor
    """Pair number t x k + slot of each row, sorted by expert and then by pair, int64 (P)."""
    positions: Tensor
    """Row of each pair, int64 (T, k); 0 for a dropped one."""
    kept: Tensor
    """True if an expert computes the pair, bool (T, k)."""
    tokens_per_expert: Tensor
    """Rows of each expert, int64 (E)."""
    bounds: tuple[int, ...] | None
    """First row of each expert and the end of the last one on the contiguous path; None: grouped products."""

    @property
    def tokens(self) -> Tensor:
        """Token of each row, int64 (P)."""
        return self.rows // self.kept.shape[1]


def sort_by_expert(chosen: Tensor, experts: int, *, grouped: bool) -> Dispatch:
    """Sort the token-expert pairs.

    Parameters
    ----------
    chosen
        Expert of each pair, int64 (T, k); ``experts`` for a dropped pair.
    experts
        Number of experts E.
    grouped
        True if the products are grouped, so that the number of rows need not be read from the device.
    """
    pairs = chosen.flatten()
    rows = pairs.argsort(stable=True)
    counts = torch.zeros(experts + 1, dtype=torch.int64, device=chosen.device).scatter_add_(0, pairs, torch.ones_like(pairs))[:experts]
    kept = chosen < experts
    positions = torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows), device=rows.device))
    bounds = None
    if not grouped:
        bounds = (0, *counts.cumsum(0).tolist())
        rows = rows[: bounds[-1]]
    return Dispatch(rows, positions.view_as(chosen).masked_fill(~kept, 0), kept, counts, bounds)


def grouped_products_pay(tokens: Tensor, hidden_features: int) -> bool:
    """True if torch's grouped product has a fast kernel for these tokens (T, d): bfloat16, Hopper or later, rows of 16 bytes."""
    return (
        tokens.is_cuda
        and tokens.dtype == torch.bfloat16
        and hasattr(F, "grouped_mm")
        and torch.cuda.get_device_capability(tokens.device) >= (9, 0)
        and not (tokens.shape[-1] % 8 or hidden_features % 8)
    )


def mix_experts(
    tokens: Tensor,
    chosen: Tensor,
    weights: Tensor,
    fc1: tuple[Tensor, Tensor],
    fc2: tuple[Tensor, Tensor],
    *,
    grouped: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the chosen experts' outputs for each token.

    Parameters
    ----------
    tokens
        (T, d).
    chosen
        Experts of each token, int64 (T, k); E for a dropped pair, but not for all pairs.
    weights
        Their weights (T, k), 0 for a dropped pair.
    fc1, fc2
        Stacked weights and biases of the experts' two layers: (E, hidden, d), (E, hidden) and (E, d, hidden), (E, d).
    grouped
        True: all experts are one grouped product. None: only if it is faster (`grouped_products_pay`).

    Returns
    -------
    outputs, tokens_per_expert
        (T, d), in the autocast dtype if autocast is on, and the number of rows that each expert computed, int64 (E).
    """
    device = tokens.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
    tokens, weights, *parameters = (tensor.to(dtype) for tensor in (tokens, weights, *fc1, *fc2))
    if torch.compiler.is_exporting():
        counts = torch.bincount(chosen.flatten(), minlength=len(parameters[0]) + 1)[:-1]
        return _exported(chosen, tokens, weights, *parameters), counts
    if grouped is None:
        # Tensors without values have no counts to read.
        grouped = tokens.is_meta or grouped_products_pay(tokens, parameters[0].shape[1])
    dispatch = sort_by_expert(chosen, len(parameters[0]), grouped=grouped)
    with torch.autocast(device, enabled=False):
        return _Experts.apply(dispatch, tokens, weights, *parameters), dispatch.tokens_per_expert


class _Experts(torch.autograd.Function):
    """Gather, both layers of every expert and the weighted sum, with their gradients."""

    @staticmethod
    def forward(ctx: Any, dispatch: Dispatch, tokens: Tensor, weights: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        inputs = tokens.index_select(0, dispatch.tokens)
        products = _grouped_forward if dispatch.bounds is None else _contiguous_forward
        hidden, outputs = products(dispatch, inputs, w1, b1, w2, b2)
        ctx.dispatch = dispatch
        ctx.save_for_backward(inputs, weights, hidden, outputs, w1, w2)
        return _sum_over_slots(outputs, dispatch, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dispatch: Dispatch = ctx.dispatch
        inputs, weights, hidden, outputs, w1, w2 = ctx.saved_tensors
        grad_rows = grad.index_select(0, dispatch.tokens)
        grad_weights = (grad_rows * outputs).sum(dim=1)[dispatch.positions]
        grad_rows.mul_(weights.flatten()[dispatch.rows].unsqueeze(1))
        products = _grouped_backward if dispatch.bounds is None else _contiguous_backward
        grad_inputs, *grad_parameters = products(dispatch, grad_rows, inputs, hidden, w1, w2)
        return None, _sum_over_slots(grad_inputs, dispatch, dispatch.kept.to(grad.dtype)), grad_weights, *grad_parameters


def _exported(chosen: Tensor, tokens: Tensor, weights: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The contiguous path in operators that leave the number of each expert's rows open, so that `torch.export` can write it down."""
    pairs = chosen.flatten()
    outputs = tokens.new_zeros(pairs.shape[0], tokens.shape[1])
    for expert in range(w1.shape[0]):
        rows = (pairs == expert).nonzero().squeeze(1)
        hidden = torch.addmm(b1[expert], tokens.index_select(0, rows // chosen.shape[1]), w1[expert].t())
        outputs = outputs.index_copy(0, rows, torch.addmm(b2[expert], F.gelu(hidden), w2[expert].t()))
    positions = torch.arange(pairs.shape[0], device=pairs.device).view_as(chosen)
    return F.embedding_bag(positions, outputs, mode="sum", per_sample_weights=weights)


def _sum_over_slots(rows: Tensor, dispatch: Dispatch, weights: Tensor) -> Tensor:
    """Sum each token's rows with weights (T, k): gather and sum in one pass, and always in the same order."""
    return F.embedding_bag(dispatch.positions, rows, mode="sum", per_sample_weights=weights)


def _contiguous_forward(dispatch: Dispatch, inputs: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    hidden, outputs = inputs.new_empty(len(inputs), w1.shape[1]), torch.empty_like(inputs)
    of_experts = zip(*_split(dispatch, inputs, hidden, outputs), w1.mT, b1, w2.mT, b2, strict=True)
    for rows, inner, result, first, first_bias, second, second_bias in of_experts:
        torch.addmm(first_bias, rows, first, out=inner)
        torch.addmm(second_bias, F.gelu(inner), second, out=result)
    return hidden, outputs


def _contiguous_backward(
    dispatch: Dispatch, grad: Tensor, inputs: Tensor, hidden: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_inputs = torch.empty_like(inputs)
    grad_w1, grad_w2 = torch.empty_like(w1), torch.empty_like(w2)
    grad_b1, grad_b2 = w1.new_empty(w1.shape[:2]), w2.new_empty(w2.shape[:2])
    of_experts = zip(*_split(dispatch, grad, inputs, hidden, grad_inputs), w1, w2, grad_w1, grad_b1, grad_w2, grad_b2, strict=True)
    for grad_rows, rows, inner, result, first, second, grad_first, grad_first_bias, grad_second, grad_second_bias in of_experts:
        # The activations are recomputed: cheaper than writing and reading them, with half the memory.
        torch.mm(grad_rows.t(), F.gelu(inner), out=grad_second)
        torch.sum(grad_rows, dim=0, out=grad_second_bias)
        grad_hidden = torch.ops.aten.gelu_backward(grad_rows.mm(second), inner)
        torch.mm(grad_hidden.t(), rows, out=grad_first)
        torch.sum(grad_hidden, dim=0, out=grad_first_bias)
        torch.mm(grad_hidden, first, out=result)
    return grad_inputs, grad_w1, grad_b1, grad_w2, grad_b2


def _split(dispatch: Dispatch, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Rows of each expert in each tensor; one split takes less time than a slice for each expert."""
    assert dispatch.bounds is not None
    sizes = [end - start for start, end in pairwise(dispatch.bounds)]
    return [tensor.split(sizes) for tensor in tensors]


def _grouped_forward(dispatch: Dispatch, inputs: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    ends = _ends(dispatch)
    members = _membership(ends, inputs)
    hidden = F.grouped_mm(inputs, w1.mT, offs=ends).addmm_(members, b1)
    return hidden, F.grouped_mm(F.gelu(hidden), w2.mT, offs=ends).addmm_(members, b2)


def _grouped_backward(
    dispatch: Dispatch, grad: Tensor, inputs: Tensor, hidden: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    ends = _ends(dispatch)
    members = _membership(ends, inputs)
    idle = (dispatch.tokens_per_expert == 0).view(-1, 1, 1)
    grad_hidden = torch.ops.aten.gelu_backward(F.grouped_mm(grad, w2, offs=ends), hidden)
    # A product over no rows may leave its output unwritten.
    grad_w1 = F.grouped_mm(grad_hidden.t(), inputs, offs=ends).masked_fill_(idle, 0)
    grad_w2 = F.grouped_mm(grad.t(), F.gelu(hidden), offs=ends).masked_fill_(idle, 0)
    grad_inputs = F.grouped_mm(grad_hidden, w1, offs=ends)
    return grad_inputs, grad_w1, members.t() @ grad_hidden, grad_w2, members.t() @ grad


def _ends(dispatch: Dispatch) -> Tensor:
    """End of each expert's rows, int32 (E); the last also computes the dropped ones, with weight 0, so that every row is written."""
    ends = dispatch.tokens_per_expert.cumsum(0)
    ends[-1:] = len(dispatch.rows)
    return ends.to(torch.int32)


def _membership(ends: Tensor, inputs: Tensor) -> Tensor:
    """One-hot experts of the rows (P, E); products with it add or sum biases without atomic additions."""
    expert = torch.searchsorted(ends, torch.arange(len(inputs), device=inputs.device, dtype=ends.dtype), right=True)
    return (expert.unsqueeze(1) == torch.arange(len(ends), device=inputs.device)).to(inputs.dtype)
