"""Prior graphs on the mediators, and signatures that realise them (specification nac.md 9)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from m2mkd.config.models import GraphPriors, Prior
from m2mkd.errors import InputError
from m2mkd.models.nac.kernel import cosine_distance

if TYPE_CHECKING:
    import networkx as nx


def prior_graph(prior: Prior, parameters: GraphPriors, nodes: int, seed: int) -> "nx.Graph":
    """Sample a graph from a prior.

    Parameters
    ----------
    prior
        Which one.
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
    import networkx as nx  # it takes most of a second, and a module that is distilled alone needs no graph

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
    """1 where there is an edge, float32, (N, N)."""
    from networkx import to_numpy_array

    return torch.as_tensor(to_numpy_array(graph), dtype=torch.float32, device="cpu")


def fit_signatures(adjacency: Tensor, dim: int, seed: int, cut: float, steps: int) -> Tensor:
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
        Distance that parts edges from non-edges.
    steps
        Steps of Adam.

    Returns
    -------
    Tensor
        (N, G), float32.
    """
    start = torch.empty(len(adjacency), dim, device="cpu")
    nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
    return refine_signatures(start, adjacency, cut, steps)


def refine_signatures(start: Tensor, adjacency: Tensor, cut: float, steps: int) -> Tensor:
    """Signatures (N, G) after ``steps`` of Adam on the hinge that pulls neighbours within ``cut`` and pushes others beyond it.

    A node counts as no neighbour of itself; its distance to itself has no gradient, so this adds a constant.
    """
    signatures = start.clone().requires_grad_()
    sign = torch.where(adjacency.to(start.device) != 0, 1.0, -1.0)
    optimiser = torch.optim.Adam([signatures], lr=1e-3)
    with torch.enable_grad():
        for _ in range(steps):
            loss = torch.maximum(sign * cut, sign * cosine_distance(signatures, signatures)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return signatures.detach()
