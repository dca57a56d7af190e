"""Prior graphs on the mediators, and signatures that realise them (specification nac.md 9)."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from m2mkd.config.models import GraphPriors, NACConfig, Prior
from m2mkd.errors import InputError
from m2mkd.models.nac.kernel import cosine_distance

if TYPE_CHECKING:
    import networkx as nx

RELEASED_RATE, ANNEALED_RATE = 1e-3, 3e-2
"""Learning rates of Adam in the fit of the signatures: the constant released one, and the first one of an annealed fit."""
CHECK_EVERY = 50
"""Steps of an annealed fit between two checks for convergence."""


def prior_graph(prior: Prior, parameters: GraphPriors, nodes: int, seed: int) -> "nx.Graph":
    """Sample a graph from a prior.

    Parameters
    ----------
    prior
        Name of the prior.
    parameters
        Parameters of all priors.
    nodes
        Number of mediators.
    seed
        Seed of the generator.

    Returns
    -------
    nx.Graph
        Undirected, without self loops, on nodes 0 to ``nodes - 1``; groups are runs of consecutive nodes.

    Raises
    ------
    InputError
        If the groups do not divide the nodes, or the prior has no graph of this size.
    """
    import networkx as nx  # slow to import, and a module that is distilled alone needs no graph

    groups = parameters.groups
    if prior in ("planted_partition", "ring_of_cliques") and nodes % groups:
        raise InputError(f"graph prior {prior}: {groups} groups do not divide {nodes} mediators; change latents.mediator or graph.groups")
    try:
        match prior:
            case "scale_free":
                return nx.barabasi_albert_graph(nodes, parameters.edges_per_node, seed=seed)
            case "planted_partition":
                return nx.planted_partition_graph(groups, nodes // groups, parameters.p_in, parameters.p_out, seed=seed)
            case "ring_of_cliques":
                return nx.ring_of_cliques(groups, nodes // groups)
            case "erdos_renyi":
                return nx.gnp_random_graph(nodes, parameters.edge_probability, seed=seed)
    except nx.NetworkXError as error:
        raise InputError(f"graph prior {prior} with {nodes} mediators: {error}; change the parameters under graph") from error


def adjacency_matrix(graph: "nx.Graph") -> Tensor:
    """Adjacency matrix (N, N), float32: 1 for each edge."""
    from networkx import to_numpy_array

    return torch.as_tensor(to_numpy_array(graph), dtype=torch.float32, device="cpu")


def prior_signatures(config: NACConfig, prior: Prior, seed: int, fit_cut: float | None) -> Tensor:
    """Initial signatures of a circuit's mediators.

    Parameters
    ----------
    config
        Sizes, and parameters of the priors.
    prior, seed
        Graph prior, and the seed of the graph and of the fit.
    fit_cut
        Distance within which the released fit brings neighbours. None: the kernel's cut, with the annealed fit, because the released
        fit stops far from convergence: with 768 mediators and the scale-free prior, only 15 % of the edges within the cut are the
        prior's. The annealed fit keeps neighbours beyond the hinge of the repulsion, if there is one; otherwise the repulsion would
        drive them apart from the first update.

    Returns
    -------
    Tensor
        (N, G), float32.
    """
    adjacency = adjacency_matrix(prior_graph(prior, config.graph, config.latents.mediator, seed))
    cut = config.truncation if fit_cut is None else fit_cut
    hinge = config.hinge if fit_cut is None and prior != "planted_partition" else 0.0
    return fit_signatures(adjacency, config.signature_dim, seed, cut, config.graph.fit_steps, annealed=fit_cut is None, hinge=hinge)


def fit_signatures(adjacency: Tensor, dim: int, seed: int, cut: float, steps: int, annealed: bool = False, hinge: float = 0.0) -> Tensor:
    """Signatures whose distances realise a graph, from a random orthogonal start.

    Parameters
    ----------
    adjacency
        (N, N), non-zero where there is an edge.
    dim
        Width G of a signature.
    seed
        Seed of the start.
    cut
        Distance that separates edges from non-edges.
    steps, annealed, hinge
        See :func:`refine_signatures`.

    Returns
    -------
    Tensor
        (N, G), float32.
    """
    start = torch.empty(len(adjacency), dim, device="cpu")
    nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
    return refine_signatures(start, adjacency, cut, steps, annealed, hinge)


def refine_signatures(start: Tensor, adjacency: Tensor, cut: float, steps: int, annealed: bool = False, hinge: float = 0.0) -> Tensor:
    """Signatures after Adam on the loss that pulls neighbours within ``cut`` and pushes others beyond it.

    A node does not count as its own neighbour; its distance to itself has no gradient, so this adds a constant.

    Parameters
    ----------
    start
        (N, G).
    adjacency
        (N, N), non-zero where there is an edge.
    cut
        Distance that separates edges from non-edges.
    steps
        Number of steps.
    annealed
        True: the rate falls from 0.03 to 0 along a cosine, in twice the steps or until every pair is on its side of the cut.
        False: it stays at 0.001, as released.
    hinge
        Distance, below ``cut``, within which neighbours are pushed apart too.

    Returns
    -------
    Tensor
        (N, G), float32, without gradient.
    """
    signatures = start.clone().requires_grad_()
    edges = adjacency.to(start.device) != 0
    sign = torch.where(edges, 1.0, -1.0)
    optimiser = torch.optim.Adam([signatures], lr=RELEASED_RATE)
    steps = 2 * steps if annealed else steps
    with torch.enable_grad():
        for step in range(steps):
            distance = cosine_distance(signatures, signatures)
            wrong = torch.maximum(sign * cut, sign * distance)
            if hinge:
                wrong = torch.where(edges & (distance < hinge), cut + hinge - distance, wrong)
            if annealed:
                if step % CHECK_EVERY == 0 and _parted(wrong.detach(), sign, cut):
                    break
                optimiser.param_groups[0]["lr"] = ANNEALED_RATE * (1 + math.cos(math.pi * step / steps)) / 2
            loss = wrong.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return signatures.detach()


def _parted(wrong: Tensor, sign: Tensor, cut: float) -> bool:
    """True if no pair of different nodes has a gradient in the loss (N, N), that is, if the graph is realised."""
    return bool((wrong == sign * cut).fill_diagonal_(True).all())
