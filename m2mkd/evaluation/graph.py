"""Graph that the signatures of a NAC's mediators realise, and its distance to the intended one (specification nac.md 7, 9)."""

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

    Its numbers equal those of networkx; a test compares them. They are computed here because the clustering of networkx differs in the
    last bits, which sometimes changes the sixth recorded digit, and takes most of a second for a published student, whose diagnosis is
    part of each epoch.
    """

    title: str
    links: Tensor
    """True where two nodes are linked, bool (N, N), symmetric, with a false diagonal."""

    @property
    def degrees(self) -> Tensor:
        """Number of neighbours of each node, float32 (N)."""
        return self.links.float().sum(1)

    @property
    def density(self) -> float:
        """Share of the pairs of different nodes that are linked."""
        nodes = len(self.links)
        return self.links.sum().item() / (nodes * (nodes - 1))

    @property
    def quantiles(self) -> list[float]:
        """Quantiles of the degrees at `QUANTILES`."""
        return self.degrees.quantile(torch.tensor(QUANTILES)).tolist()

    @property
    def clustering(self) -> float:
        """Mean over nodes of the share of a node's pairs of neighbours that are linked, 0 for a node without a pair."""
        links, degrees = self.links.float(), self.degrees
        closed = ((links @ links) * links).sum(1)
        return (closed / (degrees * (degrees - 1)).clamp(min=1)).mean().item()

    def precision(self, intended: "Graph") -> float:
        """Share of the links that are intended; 1 if there are no links."""
        return _share(self.links & intended.links, self.links)

    def recall(self, intended: "Graph") -> float:
        """Share of the intended links that exist; 1 if none is intended."""
        return intended.precision(self)


@dataclass(frozen=True)
class PropagatorKernel:
    """Weights that one propagator gives to the edges of the graph; the cut on the distance is the same for all propagators."""

    bandwidth: float
    weight: float
    """Mean value of the kernel over the links, 1 for distance 0; NaN without links."""
    sampled_degree: float
    """Mean over mediators of the expected number of neighbours if edges are sampled with the kernel's value."""


@dataclass(frozen=True)
class GraphComparison:
    """The intended graph and the graphs that signatures realise."""

    intended: Graph | None
    """None if the prior is not known."""
    realised: tuple[Graph, ...]
    """At the distance of the fit, if it is known and differs, and last at the kernel's cut, which decides."""
    input_density: float
    """Share of the pairs of an input latent and a mediator that the cut keeps."""
    kernels: tuple[PropagatorKernel, ...] = ()


def links_within(distance: Tensor, cut: float) -> Tensor:
    """Links of different nodes whose distance (N, N) is at most ``cut``, bool (N, N)."""
    return (distance <= cut).fill_diagonal_(False)


def intended_graph(config: NACConfig, prior: Prior, seed: int) -> Graph:
    """Graph that a student's signatures are fitted to."""
    adjacency = adjacency_matrix(prior_graph(prior, config.graph, config.latents.mediator, seed))
    return Graph("intended", adjacency.bool())


def graph_seed(prior: Prior | None, replicate: int) -> int:
    """Seed of the graph and of the fit for one replicate of a student's training."""
    return derive_seed("graph", str(prior), replicate)


def fitted_graph(config: NACConfig, prior: Prior, seed: int, fit_cut: float | None) -> GraphComparison:
    """Graph of a student before training.

    Parameters
    ----------
    config
        Sizes and parameters of the priors.
    prior, seed
        The graph prior, and the seed of the graph and of the fit.
    fit_cut
        Distance of the fit; None: the kernel's cut.

    Returns
    -------
    GraphComparison
        Input latents are drawn with the same seed from their initial distribution.
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
    """Cut of the kernel, and initial graph of the student, for one replicate of a run.

    Parameters
    ----------
    config
        The run's configuration, as its record holds it.
    replicate
        Seed.

    Raises
    ------
    InputError
        If the run does not train a whole NAC.
    """
    if config.get("student", {}).get("family") != "nac" or "prior" not in config:
        raise InputError("not a whole NAC, and only a whole NAC has a graph; give a run of phase train_student")
    student, prior = NACConfig.model_validate(config["student"]), config["prior"]
    return student.truncation, intended_graph(student, prior, graph_seed(prior, replicate)) if prior else None


def trained_graph(weights: Mapping[str, Tensor], cut: float, intended: Graph | None) -> GraphComparison:
    """Graph that trained weights realise.

    Parameters
    ----------
    weights
        State dict of a NAC.
    cut
        Distance above which the kernel cuts.
    intended
        Initial graph, if it is known.

    Raises
    ------
    InputError
        If the weights or their shapes are not a NAC's, or have another number of mediators than ``intended``.
    """
    missing = [name for name in (INPUTS, MEDIATORS, BANDWIDTH.format(0)) if name not in weights]
    if missing:
        raise InputError(f"{missing[0]} is not among the tensors; give the weights of a whole NAC")
    inputs, mediators = weights[INPUTS].float(), weights[MEDIATORS].float()
    if inputs.dim() != 2 or mediators.dim() != 2 or inputs.shape[1] != mediators.shape[1] or len(mediators) < 2:
        shapes = f"{tuple(inputs.shape)} and {tuple(mediators.shape)}"
        raise InputError(f"{INPUTS} and {MEDIATORS} have the shapes {shapes}, which are not a NAC's; give the weights of a whole NAC")
    if intended is not None and len(mediators) != len(intended.links):
        raise InputError(f"{MEDIATORS} has {len(mediators)} rows, but the intended graph has {len(intended.links)} nodes")
    distance = cosine_distance(mediators, mediators)
    graph = Graph(f"in use, within {cut:g}", links_within(distance, cut))
    bandwidths: list[float] = []
    while (name := BANDWIDTH.format(len(bandwidths))) in weights:
        if weights[name].numel() != 1:
            raise InputError(f"{name} has {weights[name].numel()} values, but a NAC has one; give the weights of a whole NAC")
        bandwidths.append(weights[name].item())
    return GraphComparison(
        intended,
        (graph,),
        _input_density(inputs, mediators, cut),
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
