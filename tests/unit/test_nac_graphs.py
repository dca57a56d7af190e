"""Prior graphs, signatures that realise them, and regularisers."""

import random

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2mkd.config.models import GraphPriors
from m2mkd.errors import InputError
from m2mkd.models.nac.graphs import fit_signatures, prior_graph
from m2mkd.models.nac.kernel import cosine_distance
from m2mkd.models.nac.regularisers import block_model, block_model_loss, signature_repulsion

PRIORS = ["scale_free", "planted_partition", "ring_of_cliques", "erdos_renyi"]
PARAMETERS = GraphPriors(groups=4)


def adjacency(prior, nodes=32, seed=0):
    return torch.as_tensor(nx.to_numpy_array(prior_graph(prior, PARAMETERS, nodes, seed)), dtype=torch.float32)


@pytest.mark.parametrize("prior", PRIORS)
def test_graph_depends_on_the_seed_alone(prior):
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    edges = [set(prior_graph(prior, PARAMETERS, 32, seed).edges) for seed in (0, 0, 1)]
    assert edges[0] == edges[1]
    assert (edges[0] == edges[2]) == (prior == "ring_of_cliques")
    fit_signatures(adjacency(prior), 8, 0, 0.9, 2)
    assert states[0] == random.getstate()
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert torch.equal(states[2], torch.random.get_rng_state())


def test_graphs_have_the_parameters_of_their_prior():
    assert prior_graph("scale_free", PARAMETERS, 64, 0).number_of_edges() == 2 * 62
    assert prior_graph("ring_of_cliques", PARAMETERS, 32, 0).number_of_edges() == 4 * 28 + 4
    assert nx.density(prior_graph("erdos_renyi", PARAMETERS, 300, 0)) == pytest.approx(0.1, abs=0.01)
    planted = adjacency("planted_partition", 200)
    inside = block_model(200, 4, 1.0, 0.0).bool()
    assert planted[~inside].mean().item() == pytest.approx(0.2, abs=0.01)
    assert planted[inside & ~torch.eye(200, dtype=torch.bool)].mean().item() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("prior", "nodes"), [("planted_partition", 30), ("ring_of_cliques", 30), ("ring_of_cliques", 4), ("scale_free", 2)]
)
def test_impossible_graph_is_refused(prior, nodes):
    with pytest.raises(InputError, match=f"graph prior {prior}"):
        prior_graph(prior, PARAMETERS, nodes, 0)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("cut", [0.8, 0.9])
def test_fitted_signatures_realise_the_graph_at_their_cut(prior, cut):
    graph = adjacency(prior)
    signatures = fit_signatures(graph, 32, 0, cut, 1000)
    assert torch.equal(signatures, fit_signatures(graph, 32, 0, cut, 1000))
    assert not signatures.requires_grad
    realised = cosine_distance(signatures, signatures) <= cut
    off_diagonal = ~torch.eye(32, dtype=torch.bool)
    assert (realised == graph.bool())[off_diagonal].float().mean() > 0.99


def test_graph_fitted_at_0_8_and_cut_at_0_9_is_denser_than_its_prior():
    graph = adjacency("scale_free", 64)
    signatures = fit_signatures(graph, 16, 0, 0.8, 1000)
    links = (cosine_distance(signatures, signatures) <= 0.9).sum() - 64
    assert links > 2 * graph.sum()


def test_fit_without_steps_starts_orthogonal():
    start = fit_signatures(torch.zeros(16, 16), 4, 3, 0.9, 0)
    torch.testing.assert_close(start.T @ start, torch.eye(4))
    assert not torch.equal(start, fit_signatures(torch.zeros(16, 16), 4, 4, 0.9, 0))


def test_repulsion_sums_the_distances_of_close_pairs():
    angles = torch.tensor([0.0, 0.3, 2.0])
    signatures = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
    loss = signature_repulsion(signatures, 0.4)
    torch.testing.assert_close(loss, -(1 - torch.tensor(0.3).cos()))
    loss.backward()
    assert signatures.grad[2].tolist() == [0, 0]
    moved = signatures.detach() - 0.01 * signatures.grad
    assert cosine_distance(moved, moved)[0, 1] > cosine_distance(signatures, signatures)[0, 1]


def test_block_model_refuses_groups_that_do_not_divide():
    with pytest.raises(InputError, match="3 groups do not divide 16"):
        block_model(16, 3, 0.9, 0.2)


@given(st.integers(0, 23), st.integers(0, 23))
@settings(max_examples=25, deadline=None)
def test_mediators_that_changed_places_are_found_again(first, second):
    target, order = block_model(24, 3, 0.9, 0.2), list(range(24))
    order[first], order[second] = second, first
    assert block_model_loss(target[order][:, order], target, "graph") < 1e-10


def test_most_relabelled_block_models_are_found_again():
    """The matching is local, so that it may miss the best order of a graph that is far from the model's."""
    target, found = block_model(24, 3, 0.9, 0.2), 0
    for seed in range(30):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
        found += block_model_loss(target[order][:, order], target, "graph").item() < 1e-10
    assert found >= 24


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_loss_is_that_of_the_best_rows_or_of_no_worse_an_order_than_given(seed):
    generator = torch.Generator().manual_seed(seed)
    links = torch.rand(8, 8, generator=generator)
    links, target = (links + links.T) / 2, block_model(8, 2, 0.9, 0.2)
    identity = (links - target).square().mean()
    assert block_model_loss(links, target, "graph") <= identity + 1e-7
    rows = block_model_loss(links, target, "rows")
    for _ in range(50):
        order = torch.randperm(8, generator=generator)
        assert rows <= (links[order] - target).square().mean() + 1e-6


@pytest.mark.parametrize("permutation", ["graph", "rows"])
def test_block_model_loss_has_the_gradient_of_the_matched_order(permutation):
    target = block_model(8, 2, 0.9, 0.2)
    links = (target + 0.05 * torch.rand(8, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = block_model_loss(links, target, permutation)
    loss.backward()
    assert links.grad.abs().min() > 0
    assert block_model_loss(links - 0.1 * links.grad, target, permutation) < loss
