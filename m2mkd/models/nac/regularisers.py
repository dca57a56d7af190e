"""Regularisers of the signatures (specification nac.md 10)."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from m2mkd.errors import InputError
from m2mkd.models.nac.kernel import cosine_distance

Permutation = Literal["graph", "rows"]
Reduction = Literal["sum", "mean"]


def signature_repulsion(signatures: Tensor, hinge: float, reduction: Reduction = "sum") -> Tensor:
    """Negative sum or mean of the distances of all pairs closer than ``hinge``, which pushes them apart.

    Parameters
    ----------
    signatures
        (N, G), all groups of latents.
    hinge
        Cosine distance within which two signatures repel each other.
    reduction
        Sum over the close pairs, as published, or their mean.

    Returns
    -------
    Tensor
        Scalar, zero if no pair is close.
    """
    distance = cosine_distance(signatures, signatures).tril(-1)
    close = (distance.detach() < hinge).tril(-1)
    total = (distance * close).sum()
    # Without a close pair the released mean is NaN.
    return -total if reduction == "sum" else -total / close.sum().clamp(min=1)


def block_model(nodes: int, groups: int, p_in: float, p_out: float) -> Tensor:
    """Edge probabilities (N, N) of a stochastic block model with groups of consecutive nodes.

    They are ``p_in`` inside a group, a node with itself included, and ``p_out`` between groups.

    Raises
    ------
    InputError
        If the groups do not divide the nodes.
    """
    if nodes % groups:
        raise InputError(f"block model: {groups} groups do not divide {nodes} mediators; change graph.regulariser_groups")
    group = torch.arange(nodes) // (nodes // groups)
    return torch.where(group[:, None] == group, p_in, p_out)


def block_model_losses(links: Iterable[Tensor], target: Tensor, permutation: Permutation, clip: float | None = None) -> Tensor:
    """Sum of the block model losses of several kernels on the same signatures.

    Equal link probabilities share one matching. This is exact, and no more can be shared: the order depends on the bandwidth,
    so kernels whose bandwidths differ are matched separately. All kernels of a circuit start with equal bandwidths.

    Parameters
    ----------
    links
        Link probabilities (N, N) of each kernel.
    target, permutation, clip
        See :func:`block_model_loss`.

    Returns
    -------
    Tensor
        Scalar.
    """
    matched: list[tuple[Tensor, Tensor]] = []
    total = target.new_zeros(())
    for single in links:
        order = next((order for other, order in matched if torch.equal(other, single)), None)
        if order is None:
            order = _match(single, target, permutation)
            matched.append((single.detach(), order))
        total = total + _matched_loss(single, target, permutation, order, clip)
    return total


def block_model_loss(links: Tensor, target: Tensor, permutation: Permutation, clip: float | None = None) -> Tensor:
    """Mean squared difference of link probabilities and a block model, up to the order of the nodes.

    Parameters
    ----------
    links
        Link probabilities (N, N), symmetric.
    target
        Link probabilities of the block model (N, N).
    permutation
        ``graph``: rows and columns are permuted alike, like a graph's nodes. ``rows``: only the rows, as released, which does
        not relabel the nodes.
    clip
        Squared differences below it count as this constant, without gradient; None: no clipping.

    Returns
    -------
    Tensor
        Scalar.
    """
    return _matched_loss(links, target, permutation, _match(links, target, permutation), clip)


def _matched_loss(links: Tensor, target: Tensor, permutation: Permutation, order: Tensor, clip: float | None) -> Tensor:
    permuted = links[order]
    if permutation == "graph":
        permuted = permuted[:, order]
    squares = (permuted - target).square()
    return (squares if clip is None else squares.clamp(min=clip)).mean()


@torch.no_grad()
def _match(links: Tensor, target: Tensor, permutation: Permutation) -> Tensor:
    """Node of ``links`` matched to each node of ``target``."""
    return _match_graph(links, target) if permutation == "graph" else _match_rows(links, target)


def _match_rows(links: Tensor, target: Tensor) -> Tensor:
    """Row of ``links`` matched to each row of ``target``, by the Hungarian method on squared differences.

    The square is expanded, so that the memory is N x N instead of N x N x N.
    """
    cost = target.square().sum(1, keepdim=True) + links.square().sum(1) - 2 * target @ links.T
    from scipy.optimize import linear_sum_assignment  # slow to import, and only one prior needs it

    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(links.device)


def _match_graph(links: Tensor, target: Tensor) -> Tensor:
    """Order of the nodes after repeated matching of rows, with the columns in the last order, until there is no improvement.

    Graph matching is a quadratic assignment; each round solves the linear assignment with fixed columns. The
    result is never worse than the given order, but may not be the best one.
    """
    best = torch.arange(len(links), device=links.device)
    least = (links - target).square().sum()
    while True:
        order = _match_rows(links[:, best], target)
        difference = (links[order][:, order] - target).square().sum()
        if not difference < least:
            return best
        best, least = order, difference
