"""Which graph the signatures of a NAC's mediators realise, and how near it is to the one intended (specification nac.md 7, 9)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from m2mkd.config.models import NACConfig, Prior
from m2mkd.errors import InputError
from m2mkd.models.nac.graphs import adjacency_matrix, prior_graph, prior_signatures
from m2mkd.models.nac.kernel import cosine_distance
from m2mkd.seeds import derive_seed

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
INPUTS, MEDIATORS = "input_latents.signatures", "mediator_latents.signatures"
BANDWIDTH = "propagators.{}.latent_attention.kernel.bandwidth"


@dataclass(frozen=True)
class Graph:
    """An undirected graph on the mediators.

    Its numbers are those of networkx, with which a test compares them. They are computed here because the clustering of networkx has other
    last bits, which the sixth digit on record shows at times, and because it takes most of a second for a published student, whose
    diagnosis is part of each epoch.
    """

    title: str
    links: Tensor
    """Whether two nodes are linked, bool (N, N), symmetric, its diagonal false."""

    @property
    def degrees(self) -> Tensor:
        """Neighbours of each node, float32 (N)."""
        return self.links.float().sum(1)

    @property
    def density(self) -> float:
        """Share of the pairs of different nodes that are linked."""
        nodes = len(self.links)
        return self.links.sum().item() / (nodes * (nodes - 1))

    @property
    def quantiles(self) -> list[float]:
        """Those of the degrees at `QUANTILES`."""
        return self.degrees.quantile(torch.tensor(QUANTILES)).tolist()

    @property
    def clustering(self) -> float:
        """Mean over nodes of the share of a node's pairs of neighbours that are linked, 0 for a node without a pair."""
        links, degrees = self.links.float(), self.degrees
        closed = ((links @ links) * links).sum(1)
        return (closed / (degrees * (degrees - 1)).clamp(min=1)).mean().item()

    def precision(self, intended: "Graph") -> float:
        """Share of the links that are intended; 1 where there is none."""
        return _share(self.links & intended.links, self.links)

    def recall(self, intended: "Graph") -> float:
        """Share of the intended links that are there; 1 where none is intended."""
        return intended.precision(self)


@dataclass(frozen=True)
class PropagatorKernel:
    """How one propagator weighs the edges of the graph, which its cut on the distance leaves the same for all."""

    bandwidth: float
    weight: float
    """Mean value of the kernel over the links, 1 for distance 0; NaN without links."""
    sampled_degree: float
    """Mean over mediators of the expected number of neighbours, where an edge is sampled with the kernel's value."""


@dataclass(frozen=True)
class GraphComparison:
    """The intended graph beside those that signatures realise."""

    intended: Graph | None
    """None where the prior is not known."""
    realised: tuple[Graph, ...]
    """At the distance of the fit, where it is known and another, and last at the kernel's cut, which decides."""
    input_density: float
    """Share of the pairs of an input latent and a mediator that the cut leaves."""
    kernels: tuple[PropagatorKernel, ...] = ()


def links_within(distance: Tensor, cut: float) -> Tensor:
    """Links of different nodes whose distance (N, N) is at most ``cut``, bool (N, N)."""
    return (distance <= cut).fill_diagonal_(False)


def intended_graph(config: NACConfig, prior: Prior, seed: int) -> Graph:
    """The graph that a student's signatures are fitted to."""
    adjacency = adjacency_matrix(prior_graph(prior, config.graph, config.latents.mediator, seed))
    return Graph("intended", adjacency.bool())


def graph_seed(prior: Prior | None, replicate: int) -> int:
    """Seed of the graph and of the fit in one replicate of the training of a student."""
    return derive_seed("graph", str(prior), replicate)


def fitted_graph(config: NACConfig, prior: Prior, seed: int, fit_cut: float | None) -> GraphComparison:
    """The graph that a student starts with.

    Parameters
    ----------
    config
        Sizes and parameters of the priors.
    prior, seed
        The graph, and the seed of it and of the fit.
    fit_cut
        Distance of the fit; none: the kernel's cut.

    Returns
    -------
    GraphComparison
        Input latents are drawn with the same seed from the distribution that they start with.
    """
    intended = intended_graph(config, prior, seed)
    mediators = prior_signatures(config, prior, seed, fit_cut)
    fit_cut = config.truncation if fit_cut is None else fit_cut
    inputs = torch.randn(config.latents.input, config.signature_dim, generator=torch.Generator().manual_seed(seed))
    distance = cosine_distance(mediators, mediators)
    cuts = {fit_cut: f"fitted, within {fit_cut:g}", config.truncation: f"in use, within {config.truncation:g}"}
    realised = tuple(Graph(title, links_within(distance, cut)) for cut, title in cuts.items())
    return GraphComparison(intended, realised, _input_density(inputs, mediators, config.truncation))


def intended_of_run(config: Mapping[str, Any], replicate: int) -> tuple[float, Graph | None]:
    """Cut of the kernel, and graph that the student started from, of one replicate of a run.

    Parameters
    ----------
    config
        The run's configuration, as its record holds it.
    replicate
        Seed.

    Raises
    ------
    InputError
        If the run is not of a whole NAC.
    """
    if config.get("student", {}).get("family") != "nac" or "prior" not in config:
        raise InputError("not a whole NAC, which alone has a graph; take the run of a train_student phase")
    student, prior = NACConfig.model_validate(config["student"]), config["prior"]
    return student.truncation, intended_graph(student, prior, graph_seed(prior, replicate)) if prior else None


def trained_graph(weights: Mapping[str, Tensor], cut: float, intended: Graph | None) -> GraphComparison:
    """The graph of trained weights.

    Parameters
    ----------
    weights
        State dict of a NAC.
    cut
        Distance above which the kernel cuts.
    intended
        The graph that they started from, if it is known.

    Raises
    ------
    InputError
        If they are not a NAC's, or not of as many mediators as ``intended``.
    """
    missing = [name for name in (INPUTS, MEDIATORS, BANDWIDTH.format(0)) if name not in weights]
    if missing:
        raise InputError(f"{missing[0]} is not among the tensors; give the weights of a whole NAC")
    mediators = weights[MEDIATORS].float()
    if intended is not None and len(mediators) != len(intended.links):
        raise InputError(f"{MEDIATORS} has {len(mediators)} rows, but the intended graph {len(intended.links)} nodes")
    distance = cosine_distance(mediators, mediators)
    graph = Graph(f"in use, within {cut:g}", links_within(distance, cut))
    bandwidths: list[float] = []
    while (name := BANDWIDTH.format(len(bandwidths))) in weights:
        bandwidths.append(weights[name].item())
    return GraphComparison(
        intended,
        (graph,),
        _input_density(weights[INPUTS].float(), mediators, cut),
        tuple(_kernel(bandwidth, distance, graph) for bandwidth in bandwidths),
    )


def _kernel(bandwidth: float, distance: Tensor, graph: Graph) -> PropagatorKernel:
    value = (-distance / bandwidth).exp()
    expected = (value.clamp(max=1) * graph.links).sum(1).mean().item()
    return PropagatorKernel(bandwidth, value[graph.links].mean().item(), expected)


def _input_density(inputs: Tensor, mediators: Tensor, cut: float) -> float:
    return (cosine_distance(mediators, inputs) <= cut).float().mean().item()


def _share(part: Tensor, whole: Tensor) -> float:
    return part.sum().item() / whole.sum().item() if whole.any() else 1.0
