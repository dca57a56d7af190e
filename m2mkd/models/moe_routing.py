"""Routing: the experts that each token is sent to, and their weights (specification vmoe.md 1.2 and 2)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def route_naive(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Send every token to the experts with the largest logits, as the released code does.

    Parameters
    ----------
    logits
        (T, E).
    top_k
        Experts for each token, k.

    Returns
    -------
    chosen, weights
        Experts (T, k), int64, and the softmax over the chosen logits alone (T, k), which sums to 1 for each token.
    """
    largest, chosen = logits.topk(top_k, dim=-1)
    return chosen, largest.softmax(dim=-1)


@dataclass(frozen=True)
class VMoERouter:
    """Routing of the original V-MoE: softmax over all experts, noise, and a limit on the tokens of each expert.

    Limits and auxiliary losses apply to groups of consecutive images. The output for an image therefore depends on the other
    images of its group, also in evaluation.
    """

    capacity_ratio: float = 1.05
    """Ratio of an expert's maximum number of tokens in training to an even share."""
    eval_capacity_ratio: float = 1.05
    """Capacity ratio in evaluation."""
    group_size: int = 8
    """Number of images in a group."""
    batch_priority: bool = False
    """True: tokens of a group are served by decreasing weight of their best expert. False: in their order."""
    noise: float = 1.0
    """Standard deviation of the noise on the logits in training, in units of 1/E."""
    importance_weight: float = 0.005
    """Weight of the importance loss."""
    load_weight: float = 0.005
    """Weight of the load loss."""

    def route(self, logits: Tensor, top_k: int, group_tokens: int, *, training: bool) -> tuple[Tensor, Tensor]:
        """Send every token to its best experts that still have capacity.

        Parameters
        ----------
        logits
            (T, E), with the noise.
        top_k
            Experts for each token, k.
        group_tokens
            Tokens in a group; the last group may have fewer.
        training
            Selects the capacity ratio for training or evaluation.

        Returns
        -------
        chosen, weights
            Experts (T, k), int64, best first, and their softmax weights over all experts (T, k), which are not normalised again. A
            pair beyond the capacity has expert E and weight 0.
        """
        weights, chosen = logits.softmax(dim=-1).topk(top_k, dim=-1)
        ratio = self.capacity_ratio if training else self.eval_capacity_ratio
        priority = weights.detach()[:, 0] if self.batch_priority else None
        experts = logits.shape[-1]
        positions = queue_positions(chosen, experts, group_tokens, priority)
        full = torch.cat([group >= capacity(len(group), experts, top_k, ratio) for group in positions.split(group_tokens)])
        return chosen.masked_fill(full, experts), weights.masked_fill(full, 0)

    def auxiliary_loss(self, logits: Tensor, noisy: Tensor, top_k: int, group_tokens: int) -> Tensor:
        """Weighted sum of the importance and the load loss, averaged over the groups; without noise there is no load loss.

        Parameters
        ----------
        logits, noisy
            (T, E) without and with noise.
        top_k, group_tokens
            See `route`.
        """
        loss = self.importance_weight * imbalance(logits.softmax(dim=-1), group_tokens)
        if self.noise:
            chances = winning_chances(logits, noisy, top_k, self.noise / logits.shape[-1])
            loss = loss + self.load_weight * imbalance(chances, group_tokens)
        return loss


def capacity(tokens: int, experts: int, top_k: int, ratio: float) -> int:
    """Capacity of each expert for a group, in tokens: the even share times ``ratio``, rounded up to a multiple of 4."""
    return math.ceil(math.ceil(ratio * top_k * tokens / experts) / 4) * 4


def queue_positions(chosen: Tensor, experts: int, group_tokens: int, priority: Tensor | None = None) -> Tensor:
    """Position of each token-expert pair in the queue of that expert, in its group.

    First choices come before second choices; among them tokens keep their order, or are sorted by decreasing priority.

    Parameters
    ----------
    chosen
        (T, k), int64, best first.
    experts
        Number of experts E.
    group_tokens
        Tokens in a group.
    priority
        (T); None: the order of the tokens.

    Returns
    -------
    Tensor
        Positions from 0, int64 (T, k).
    """
    device = chosen.device
    served = torch.arange(len(chosen), device=device) if priority is None else priority.argsort(descending=True, stable=True)
    groups = torch.arange(len(chosen), device=device) // group_tokens
    queues = (chosen + experts * groups.unsqueeze(1))[served].t().flatten()
    # A stable sort keeps the order of service inside each queue; the first row of a queue is its position 0.
    sorted_queues, order = queues.sort(stable=True)
    positions = torch.empty_like(order)
    positions[order] = torch.arange(len(order), device=device) - torch.searchsorted(sorted_queues, sorted_queues)
    ours = torch.empty_like(chosen)
    ours[served] = positions.view(chosen.shape[1], -1).t()
    return ours


def imbalance(shares: Tensor, group_tokens: int) -> Tensor:
    """Squared coefficient of variation of the experts' sums over a group, averaged over the groups.

    Parameters
    ----------
    shares
        Contribution of each token to each expert (T, E).
    group_tokens
        Tokens in a group; the last group may have fewer.
    """
    sums = torch.stack([group.sum(dim=0) for group in shares.split(group_tokens)])
    return (sums.var(dim=1, unbiased=False) / sums.mean(dim=1).square()).mean()


def winning_chances(logits: Tensor, noisy: Tensor, top_k: int, deviation: float) -> Tensor:
    """Probability (T, E) that an expert's logit, with its noise drawn again, exceeds the smallest of the k chosen noisy logits.

    Parameters
    ----------
    logits, noisy
        (T, E) without and with noise.
    top_k
        Experts for each token, k.
    deviation
        Standard deviation of the noise.
    """
    threshold = noisy.topk(top_k, dim=-1).values[:, -1:]
    return torch.special.ndtr((logits - threshold) / deviation)
