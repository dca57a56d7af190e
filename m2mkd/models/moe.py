"""Mixture of experts in place of a transformer's MLP (specification vmoe.md 1.2)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ExpertInit = Literal["trunc02", "fastmoe"]


class ExpertLinear(nn.Module):
    """One linear map for each expert, stacked.

    Parameters
    ----------
    experts
        Number of experts E.
    in_features, out_features
        Widths of each map.
    init
        ``trunc02``: normal with standard deviation 0.02, like every other linear weight. ``fastmoe``: uniform in
        +-1 / sqrt(in_features x out_features), what the released code starts from (specification vmoe.md 1.5).
    """

    def __init__(self, experts: int, in_features: int, out_features: int, *, init: ExpertInit) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(experts, out_features))
        if init == "trunc02":
            nn.init.trunc_normal_(self.weight, std=0.02)
        else:
            bound = 1 / math.sqrt(in_features * out_features)
            nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, groups: list[Tensor]) -> list[Tensor]:
        """Map group e, (T_e, in_features), by expert e to (T_e, out_features)."""
        # unbind has one stack as its backward; indexing each expert would have E zero tensors of the full size.
        return [F.linear(group, *expert) for group, *expert in zip(groups, self.weight.unbind(), self.bias.unbind(), strict=True)]


class MoE(nn.Module):
    """Mixture of MLP experts without a capacity limit, noise or auxiliary loss (specification vmoe.md 1.2).

    Each token goes to the ``top_k`` experts with the largest gate logits, mixed by the softmax over these logits.
    Gradients reach the gate through the mixing weights only; an expert without tokens gets zeros.

    Parameters
    ----------
    in_features
        Token width d.
    hidden_features
        Hidden width of each expert.
    experts
        Number of experts E.
    top_k
        Experts for each token, at most E.
    expert_init
        Initial weights of the experts, see `ExpertLinear`. A stage initialises the gate, like all its linear maps.
    """

    tokens_per_expert: Tensor | None
    """Tokens that each expert got in the last call, int64 (E); they sum to ``top_k`` times the tokens."""

    def __init__(self, in_features: int, hidden_features: int, *, experts: int, top_k: int, expert_init: ExpertInit = "trunc02") -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(in_features, experts)
        self.fc1 = ExpertLinear(experts, in_features, hidden_features, init=expert_init)
        self.fc2 = ExpertLinear(experts, hidden_features, in_features, init=expert_init)
        self.tokens_per_expert = None

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts and their weights.

        Parameters
        ----------
        tokens
            (T, d).

        Returns
        -------
        chosen, weights
            Expert numbers (T, top_k), int64, and mixing weights (T, top_k) that sum to 1 for each token.
        """
        logits, chosen = self.gate(tokens).topk(self.top_k, dim=-1)
        return chosen, logits.softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., d) to (..., d)."""
        tokens = x.flatten(end_dim=-2)
        chosen, weights = self.route(tokens)
        # Pairs of token and expert, sorted by expert, so that each expert has one contiguous product.
        order = chosen.flatten().argsort(stable=True)
        token_of_pair = order // self.top_k
        self.tokens_per_expert = chosen.flatten().bincount(minlength=self.gate.out_features)
        # index_select, because the backward of plain indexing adds atomically, in an order that depends on the threads.
        groups = list(tokens.index_select(0, token_of_pair).split(self.tokens_per_expert.tolist()))
        outputs = torch.cat(self.fc2([F.gelu(hidden) for hidden in self.fc1(groups)]))
        weighted = outputs * weights.flatten().index_select(0, order).unsqueeze(-1)
        return weighted.new_zeros(tokens.shape).index_add(0, token_of_pair, weighted).reshape(x.shape)
