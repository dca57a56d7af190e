"""The realised graph of signatures beside the intended one, and ``m2mkd graph show``."""

import json
import math

import networkx as nx
import pytest
import torch
from safetensors.torch import save_file

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.evaluation.graph import Graph, fitted_graph, graph_seed, links_within, trained_graph

EXPERIMENT = "nac_tiny_imagenet_scale_free"


@pytest.fixture(autouse=True)
def _one_thread():
    """The matrices are too small for several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def show(capsys, monkeypatch):
    """Run the command in this process, and give what it prints."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> str:
        app(["graph", "show", *map(str, arguments)], standalone_mode=False)
        return capsys.readouterr().out

    return run


def row(text, name):
    """Cells of a printed table's row."""
    line = next(line for line in text.splitlines() if line.strip(" │").startswith(name))
    return [cell.strip() for cell in line.strip("│ ").split("│")][1:]


def published(name):
    return load.catalogue(load.scale("paper", {})).models[name]


@pytest.mark.parametrize("seed", [0, 1])
def test_statistics_are_those_of_networkx(seed):
    graph = nx.gnp_random_graph(40, 0.08, seed=seed)
    ours = Graph("", torch.as_tensor(nx.to_numpy_array(graph)).bool())
    assert ours.density == pytest.approx(nx.density(graph))
    assert ours.clustering == pytest.approx(nx.average_clustering(graph))
    assert ours.degrees.tolist() == [degree for _, degree in sorted(graph.degree)]


def test_precision_and_recall():
    intended, found = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    for links, pairs in ((intended, [(0, 1), (1, 2)]), (found, [(0, 1), (0, 2), (0, 3)])):
        for one, other in pairs:
            links[one, other] = links[other, one] = True
    assert Graph("", found).precision(Graph("", intended)) == pytest.approx(1 / 3)
    assert Graph("", found).recall(Graph("", intended)) == pytest.approx(1 / 2)
    empty = Graph("", torch.zeros(4, 4, dtype=torch.bool))
    assert (empty.precision(Graph("", intended)), empty.recall(Graph("", intended))) == (1.0, 0.0)


def test_released_fit_of_the_published_scale_free_graph_is_14_times_too_dense():
    """Specification nac.md 9: density 0.0156 within 0.8, 0.215 within 0.9, precision 0.07, at another seed."""
    found = fitted_graph(published("nac_tiny_imagenet"), "scale_free", graph_seed("scale_free", 0), 0.8)
    fitted, used = found.realised
    assert fitted.density == pytest.approx(0.0156, abs=2e-4) and fitted.precision(found.intended) > 0.99
    assert used.density == pytest.approx(0.215, abs=0.01) and used.precision(found.intended) == pytest.approx(0.07, abs=0.01)
    assert used.recall(found.intended) == 1
    assert found.input_density == pytest.approx(0.21, abs=0.015)


@pytest.mark.parametrize("prior", ["scale_free", "erdos_renyi", "planted_partition", "ring_of_cliques"])
def test_corrected_fit_realises_the_graph(prior):
    config = published("nac_tiny_imagenet")
    small = config.model_copy(update={"signature_dim": 32, "latents": config.latents.model_copy(update={"mediator": 64})})
    found = fitted_graph(small, prior, 0, None)
    (used,) = found.realised
    assert used.precision(found.intended) == used.recall(found.intended) == 1
    loose = fitted_graph(small, prior, 0, 0.8).realised[-1]
    assert loose.density > 1.3 * used.density


def weights(mediators, bandwidths, inputs=None):
    named = {f"propagators.{index}.latent_attention.kernel.bandwidth": torch.tensor(value) for index, value in enumerate(bandwidths)}
    return {"mediator_latents.signatures": mediators, "input_latents.signatures": mediators[:1] if inputs is None else inputs, **named}


def test_trained_graph_is_that_of_the_distances_and_weighs_edges_by_bandwidth():
    angles = torch.tensor([0.0, 0.5, 3.0])
    mediators = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = trained_graph(weights(mediators, [1.0, 2.0], inputs=-mediators[:1]), 0.9, None)
    (graph,) = found.realised
    assert graph.links.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    near = 1 - math.cos(0.5)
    assert [kernel.weight for kernel in found.kernels] == pytest.approx([math.exp(-near), math.exp(-near / 2)], rel=1e-5)
    assert found.kernels[0].sampled_degree == pytest.approx(2 / 3 * math.exp(-near), rel=1e-5)
    assert found.input_density == pytest.approx(1 / 3)


def test_links_end_at_the_cut_and_leave_out_the_node_itself():
    distance = torch.tensor([[0.0, 0.9], [0.9, 0.0]])
    assert links_within(distance, 0.9).tolist() == [[False, True], [True, False]]
    assert not links_within(distance, 0.89).any()


def test_weights_of_something_else_are_refused():
    with pytest.raises(InputError, match=r"mediator_latents\.signatures is not among the tensors"):
        trained_graph({"input_latents.signatures": torch.zeros(1, 2)}, 0.9, None)
    with pytest.raises(InputError, match="has 3 rows, but the intended graph has 4 nodes"):
        trained_graph(weights(torch.randn(3, 2), [1.0]), 0.9, Graph("", torch.zeros(4, 4, dtype=torch.bool)))


def test_show_an_experiment_in_both_profiles(show, tmp_path):
    released = show(EXPERIMENT, "--scale", "small", "--profile", "released", "-o", tmp_path / "graph.png")
    corrected = show(EXPERIMENT, "--scale", "small")
    assert len(row(released, "density")) == 3 and len(row(corrected, "density")) == 2
    assert row(released, "density")[0] == row(corrected, "density")[0]
    assert float(row(released, "density")[2]) > 1.3 * float(row(corrected, "density")[1])
    assert row(corrected, "edges") == ["60", "60"] and row(corrected, "precision") == ["", "1.000"]
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert row(show(EXPERIMENT, "--scale", "small", "--seed", "1"), "clustering") != row(corrected, "clustering")


def test_show_weights_finds_the_graph_that_they_started_from(show, tmp_path):
    from m2mkd.cli.options import read_study
    from m2mkd.models.nac.graphs import adjacency_matrix, fit_signatures, prior_graph

    study = read_study("small", [EXPERIMENT], None)
    config = study.runs[study.rows[0].trained[0]].config
    seed = graph_seed(config.prior, 2)
    adjacency = adjacency_matrix(prior_graph(config.prior, config.student.graph, 32, seed))
    mediators = fit_signatures(adjacency, 16, seed, 0.9, 300)
    save_file(weights(mediators, [1.0, 0.5], inputs=torch.randn(8, 16)), tmp_path / "model.safetensors")
    (tmp_path / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json"), "seed": 2}))
    text = show(tmp_path, "-o", tmp_path / "graph.svg")
    assert row(text, "density")[0] == f"{adjacency.sum().item() / (32 * 31):.4f}"
    assert float(row(text, "recall")[1]) > 0.8
    assert "0.5000" in text
    assert "<svg" in (tmp_path / "graph.svg").read_text()

    (tmp_path / "run.json").unlink()
    assert len(row(show(tmp_path / "model.safetensors"), "density")) == 1
    assert float(row(show(tmp_path / "model.safetensors", "--cut", "1.5"), "density")[0]) > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vmoe_base"], "experiment vmoe_base: does not train a NAC"),
        ([EXPERIMENT, "-o", "graph.pdf"], r"--output graph\.pdf: the ending is neither \.png nor \.svg"),
        (["nothing/here"], r"nothing/here: neither a file nor a folder with model\.safetensors"),
        (["README.safetensors"], r"README\.safetensors: neither a file"),
    ],
)
def test_what_cannot_be_shown_is_refused(show, arguments, message):
    with pytest.raises(InputError, match=message):
        show(*arguments, "--scale", "small")


def test_a_file_of_something_else_is_refused(show, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file"):
        show(path)
    save_file({"head.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"model\.safetensors: input_latents\.signatures is not among the tensors"):
        show(path)
    (tmp_path / "run.json").write_text(json.dumps({"config": {"student": {"family": "vmoe"}}, "seed": 0}))
    with pytest.raises(InputError, match=r"model\.safetensors: not a whole NAC"):
        show(path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run\.json: not a run's record \(KeyError"):
        show(path)


NAC = {"student": {"family": "nac", "latents": {"mediator": 10**9}}, "prior": "scale_free"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("[" * 100_000, "not valid JSON: it is nested too deep"),
        ("[1]", "holds a list"),
        ('{"seed": 0, "seed": 1}', "the name 'seed' occurs twice"),
        ("\xe9", "not valid JSON: byte 0 is not UTF-8"),
        ('{"config": 7, "seed": 0}', r"not a run's record \(AttributeError"),
        ('{"config": {"student": [1]}, "seed": 0}', r"not a run's record \(AttributeError"),
        ('{"config": {"student": {"family": "nac"}, "prior": "none"}, "seed": 0}', r"not a run's record \(ValidationError"),
        ('{"config": {}, "seed": 1e999}', r"not a run's record \(OverflowError"),
        (json.dumps({"config": NAC, "seed": 0}), "is of another number of mediators than the weights"),
    ],
)
def test_a_record_of_strangers_beside_weights_is_refused_in_one_line(show, tmp_path, record, message):
    save_file(weights(torch.randn(3, 2), [1.0], torch.randn(1, 2)), tmp_path / "model.safetensors")
    (tmp_path / "run.json").write_bytes(record.encode("latin-1"))
    with pytest.raises(InputError, match=rf"model\.safetensors: run\.json: .*{message}"):
        show(tmp_path)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (weights(torch.tensor(1.0), [1.0], torch.zeros(1, 2)), r"shapes \(1, 2\) and \(\), which are not a NAC's"),
        (weights(torch.zeros(1, 2), [1.0], torch.zeros(1, 2)), r"shapes \(1, 2\) and \(1, 2\)"),
        (weights(torch.zeros(3, 2), [1.0], torch.zeros(1, 5)), r"shapes \(1, 5\) and \(3, 2\)"),
        (weights(torch.zeros(3, 2), [[1.0, 2.0]], torch.zeros(1, 2)), r"kernel\.bandwidth has 2 values, but a NAC has one"),
    ],
)
def test_tensors_of_other_shapes_are_refused_in_one_line(show, tmp_path, found, message):
    save_file(found, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{message}"):
        show(tmp_path / "model.safetensors")
