"""Prior graphs, signatures that realise them, and regularisers."""

import random

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2mkd.config.models import GraphPriors, NACConfig
from m2mkd.errors import InputError
from m2mkd.models.nac.graphs import fit_signatures, prior_graph, prior_signatures
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


def over_seeds(prior, nodes, parameters=PARAMETERS, seeds=20):
    return [prior_graph(prior, parameters, nodes, seed) for seed in range(seeds)]


def test_erdos_renyi_has_the_degrees_of_its_probability():
    nodes, p = 128, 0.1
    degrees = np.concatenate([[degree for _, degree in graph.degree] for graph in over_seeds("erdos_renyi", nodes)])
    # Binomial with nodes - 1 trials; the mean over all seeds is that of 20 x 8128 pairs.
    assert degrees.mean() == pytest.approx(p * (nodes - 1), abs=4 * 2 / nodes * (20 * 8128 * p * (1 - p)) ** 0.5 / 20)
    assert degrees.var() == pytest.approx((nodes - 1) * p * (1 - p), rel=0.1)
    densities = [nx.density(graph) for graph in over_seeds("erdos_renyi", nodes)]
    assert np.std(densities) > 0.001


def test_scale_free_has_the_degrees_of_preferential_attachment():
    nodes, m = 256, 2
    graphs = over_seeds("scale_free", nodes)
    assert {graph.number_of_edges() for graph in graphs} == {m * (nodes - m)}
    degrees = np.concatenate([[degree for _, degree in graph.degree] for graph in graphs])
    # The share of nodes of degree k tends to 2 m (m + 1) / (k (k + 1) (k + 2)): half of them have degree m, with a heavy tail.
    for k in (2, 3, 4, 5):
        assert (degrees == k).mean() == pytest.approx(2 * m * (m + 1) / (k * (k + 1) * (k + 2)), rel=0.12)
    assert np.mean([max(degree for _, degree in graph.degree) for graph in graphs]) > 6 * degrees.mean()


def test_planted_partition_has_both_probabilities():
    inside = (block_model(64, 4, 1.0, 0.0).bool() & ~torch.eye(64, dtype=torch.bool)).numpy()
    outside = block_model(64, 4, 0.0, 1.0).bool().numpy()
    matrices = np.stack([nx.to_numpy_array(graph) for graph in over_seeds("planted_partition", 64)])
    # Within four standard errors of 20 x 480 pairs inside and 20 x 1536 outside.
    assert matrices[:, inside].mean() == pytest.approx(0.9, abs=4 * (0.9 * 0.1 / (20 * 480)) ** 0.5)
    assert matrices[:, outside].mean() == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / (20 * 1536)) ** 0.5)


def test_ring_of_cliques_is_exact():
    graph = prior_graph("ring_of_cliques", PARAMETERS, 32, 0)
    for group in range(4):
        members = range(8 * group, 8 * group + 8)
        assert graph.subgraph(members).number_of_edges() == 28
        following = range(8 * ((group + 1) % 4), 8 * ((group + 1) % 4) + 8)
        assert len(list(nx.edge_boundary(graph, members, following))) == 1
    assert graph.number_of_edges() == 4 * 28 + 4


@pytest.mark.parametrize("prior", PRIORS)
def test_parameters_are_used(prior):
    changed = {"scale_free": {"edges_per_node": 4}, "erdos_renyi": {"edge_probability": 0.5}}.get(prior, {"groups": 8})
    other = prior_graph(prior, PARAMETERS.model_copy(update=changed), 32, 0)
    assert abs(other.number_of_edges() - prior_graph(prior, PARAMETERS, 32, 0).number_of_edges()) > 30


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


def test_annealed_fit_realises_a_graph_that_the_released_fit_does_not_in_time():
    graph = adjacency("scale_free", 96)
    wrong = {}
    for annealed in (False, True):
        signatures = fit_signatures(graph, 24, 0, 0.9, 200, annealed)
        assert torch.equal(signatures, fit_signatures(graph, 24, 0, 0.9, 200, annealed))
        realised = (cosine_distance(signatures, signatures) <= 0.9).fill_diagonal_(False)
        wrong[annealed] = (realised != graph.bool()).sum().item()
    assert wrong[True] == 0 and wrong[False] > 100


def test_annealed_fit_ends_when_every_pair_is_parted(monkeypatch):
    graph, steps = adjacency("ring_of_cliques"), []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *arguments: steps.append(1) or step(*arguments))
    signatures = fit_signatures(graph, 32, 0, 0.9, 1000, annealed=True)
    assert len(steps) < 500
    assert torch.equal((cosine_distance(signatures, signatures) <= 0.9).fill_diagonal_(False), graph.bool())


@pytest.mark.parametrize("prior", ["ring_of_cliques", "scale_free", "erdos_renyi"])
def test_the_repulsion_of_a_fitted_graph_is_zero_at_the_start(prior):
    sizes = {"input": 8, "mediator": 32, "output": 4}
    config = NACConfig(state_dim=8, code_dim=8, signature_dim=32, heads=2, latents=sizes, graph=PARAMETERS.model_dump())
    graph = adjacency(prior)
    fitted = prior_signatures(config, prior, 0, None)
    distance = cosine_distance(fitted, fitted).fill_diagonal_(2)
    assert distance.min() >= config.hinge
    assert torch.equal(distance <= config.truncation, graph.bool())
    assert signature_repulsion(fitted, config.hinge) == 0
    # The fit without the hinge pulls neighbours inside it.
    inside = fit_signatures(graph, 32, 0, config.truncation, 1000, annealed=True)
    assert signature_repulsion(inside, config.hinge) < 0


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
