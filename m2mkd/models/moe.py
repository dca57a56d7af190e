"""Mixture of experts that replaces a transformer's MLP (specification vmoe.md 1.2 and 2).

Every expert is on the device of the layer; expert parallelism is out of scope.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from m2mkd.models.moe_dispatch import mix_experts
from m2mkd.models.moe_routing import VMoERouter, route_naive

ExpertInit = Literal["trunc02", "fastmoe"]


class ExpertLinear(nn.Module):
    """Parameters of one linear map per expert, stacked.

    Parameters
    ----------
    experts
        Number of experts E.
    in_features, out_features
        Widths of each map.
    init
        ``trunc02``: normal with standard deviation 0.02, like every other linear weight. ``fastmoe``: uniform in
        +-1 / sqrt(in_features x out_features), as in the released code (specification vmoe.md 1.5).
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


class MoE(nn.Module):
    """Mixture of MLP experts.

    Each token goes to ``top_k`` experts, whose outputs are summed with the router's weights. Gradients reach the gate through
    these weights, and through the auxiliary loss if the router has one. An expert without tokens gets zero gradients.

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
    router
        Routing of the original V-MoE. None: that of the released code, which has a biased gate, no limit, no noise and no
        auxiliary loss.
    """

    tokens_per_expert: Tensor | None
    """Tokens that each expert computed in the last call, int64 (E); without a limit they sum to ``top_k`` times the tokens."""
    router_entropy: Tensor | None
    """Entropy in nats of the softmax over all noiseless logits of the last call, averaged over its tokens, ()."""
    dropped_share: Tensor | None
    """Share of the token-expert pairs in the last call that exceeded the capacity, ()."""
    noise: Tensor | None
    """Standard normal noise for the next call in training, (B, N, E); drawn by the stage."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        experts: int,
        top_k: int,
        expert_init: ExpertInit = "trunc02",
        router: VMoERouter | None = None,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = router
        self.gate = nn.Linear(in_features, experts, bias=router is None)
        self.fc1 = ExpertLinear(experts, in_features, hidden_features, init=expert_init)
        self.fc2 = ExpertLinear(experts, hidden_features, in_features, init=expert_init)
        self.tokens_per_expert = self.router_entropy = self.dropped_share = self.noise = None
        self._auxiliary_loss: Tensor | None = None

    @property
    def draws_noise(self) -> bool:
        """True if the next call needs `noise`."""
        return self.training and self.router is not None and self.router.noise > 0

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts and their weights.

        Parameters
        ----------
        x
            Tokens (B, N, d), or (T, d) with each token as an image of its own.

        Returns
        -------
        chosen, weights
            Expert numbers (T, top_k), int64, with E where an expert's limit was reached; and mixing weights (T, top_k).

        Raises
        ------
        ValueError
            If the router needs noise but has none.
        """
        logits = self.gate(x).flatten(end_dim=-2)
        if self.router is None:
            chosen, weights = route_naive(logits, self.top_k)
        else:
            # Half precision is too coarse for losses and priorities.
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            group_tokens = self.router.group_size * (x.shape[-2] if x.dim() > 2 else 1)
            noisy = self._disturbed(logits)
            chosen, weights = self.router.route(noisy, self.top_k, group_tokens, training=self.training)
            if self.training:
                self._auxiliary_loss = self.router.auxiliary_loss(logits, noisy, self.top_k, group_tokens)
        if torch.compiler.is_exporting():
            return chosen, weights
        with torch.no_grad():
            self.router_entropy = torch.special.entr(logits.float().softmax(dim=-1)).sum(dim=-1).mean()
            self.dropped_share = (chosen == logits.shape[-1]).float().mean()
        return chosen, weights

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, d) or (T, d) to the same shape, in the autocast dtype if autocast is on."""
        chosen, weights = self.route(x)
        experts = (self.fc1.weight, self.fc1.bias), (self.fc2.weight, self.fc2.bias)
        outputs, tokens_per_expert = mix_experts(x.flatten(end_dim=-2), chosen, weights, *experts)
        # An exported program has no attributes to leave counts in.
        if not torch.compiler.is_exporting():
            self.tokens_per_expert = tokens_per_expert
        return outputs.view_as(x)

    def take_auxiliary_loss(self) -> Tensor | float:
        """Auxiliary loss of the last call in training, returned only once; 0 if the router has none."""
        loss, self._auxiliary_loss = self._auxiliary_loss, None
        return 0.0 if loss is None else loss

    def _disturbed(self, logits: Tensor) -> Tensor:
        if self.router is None or not self.draws_noise:
            return logits
        if self.noise is None:
            raise ValueError("in training this router draws random numbers: pass noise=GENERATOR to the network")
        return logits + self.noise.flatten(end_dim=-2).to(logits.dtype) * (self.router.noise / logits.shape[-1])
