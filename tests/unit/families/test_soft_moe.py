"""The example of a family of another package: the layer by hand, and the whole way from the plan to the report."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from m2mkd.config import load
from m2mkd.data.prepare import prepare
from m2mkd.planning.cost import cost_of
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.seeds import forked_rng
from m2mkd.study.files import planned_runs, write_plan
from m2mkd.study.run import Run
from m2mkd.tracking.mlflow_export import sync
from m2mkd.training.job import execute
from m2mkd.training.machine import machine_for
from tests.packages import installed, project_with
from tests.tiny import by_phase, smoke
from tests.unit.tracking.stored import tags

SHORT = {"epochs": 1, "eval_every": 1, "warmup_epochs": 0, "train_share": 0.1}
RECIPES = ("pretrain_meta", "incubate_module", "assemble_teacher", "distill_module", "vmoe_finetune", "vmoe_end_to_end_100")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The module of the example, as pip installs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed("m2mkd-soft-moe", tmp_path_factory.mktemp("plugins")))
        import m2mkd_soft_moe

        yield m2mkd_soft_moe


@pytest.fixture(scope="module")
def computed(example, tmp_path_factory):
    """The folder of a project, and its study of the family that has run from teacher to evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = project_with(tmp_path_factory.mktemp("soft"), "{like: vmoe_base, family: soft_moe, slots: 2}")
        patch.chdir(root)
        changes = {"experiment_changes": {"vmoe_base": {"model": "mine"}}, "recipes": dict.fromkeys(RECIPES, SHORT)}
        study = smoke("vmoe_base/end_to_end", "vmoe_base/m2mkd", **changes)
        write_plan(study)
        for data in {data.key: data for run in study.runs.values() for data in run.config.data_sets}.values():
            prepare(data.name, load.datasets()[data.name], data.image_size, Path(data.folder), processes=1)
        planned = planned_runs(study)
        for run_id in study.runs:  # what a run builds on was planned before it
            execute([planned[run_id]], machine_for("cpu", 1), lambda _: None)
        yield root, study


@pytest.fixture
def finished(computed, monkeypatch):
    """That study; the working directory is its project."""
    root, study = computed
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return study


# --- the layer -------------------------------------------------------------------------------------------------------


def test_the_layer_by_hand(example):
    with forked_rng("soft"):
        layer, x = example.SoftMoE(6, 10, experts=2, slots=3), torch.randn(4, 5, 6)
    layer.scale.data.fill_(2.0)
    expected = torch.zeros_like(x)
    for image in range(4):
        logits = torch.zeros(5, 6)
        for token in range(5):
            for slot in range(6):
                cosine = F.cosine_similarity(x[image, token], layer.phi[:, slot], dim=0)
                logits[token, slot] = 2 * cosine
        for slot in range(6):
            collected = sum(logits[:, slot].softmax(0)[token] * x[image, token] for token in range(5))
            expert = slot // 3
            hidden = F.gelu(layer.fc1.weight[expert] @ collected + layer.fc1.bias[expert])
            out = layer.fc2.weight[expert] @ hidden + layer.fc2.bias[expert]
            for token in range(5):
                expected[image, token] += logits[token].softmax(0)[slot] * out
    torch.testing.assert_close(layer(x), expected)


def test_every_parameter_gets_a_gradient(example):
    with forked_rng("soft"):
        layer, x = example.SoftMoE(6, 10, experts=2, slots=1), torch.randn(4, 5, 6)
    layer(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize(("moe_blocks", "positions"), [("all", [0, 1, 2, 3]), ("second_half", [2, 3])])
def test_experts_are_where_the_configuration_says(example, moe_blocks, positions):
    config = example.SoftMoEConfig(patch_size=8, width=16, heads=2, depths=(1, 2, 1), moe_blocks=moe_blocks)
    student = example.SoftMoEFamily().build(
        config, image_size=16, num_classes=5, prior=None, stitch_width=None, drop_path=0.0, graph_seed=0, compat={}
    )
    blocks = [block for stage in student.stages for block in stage.blocks]
    assert [index for index, block in enumerate(blocks) if isinstance(block.mlp, example.SoftMoE)] == positions


# --- from plan to report ---------------------------------------------------------------------------------------------


def folder(study, run: Run) -> Path:
    return Path(study.folder(run.id))


def test_name_version_and_code_are_in_the_record_of_each_run_that_has_the_student(finished):
    for run in finished.runs.values():
        record = json.loads((folder(finished, run) / "run.json").read_text())
        student = record["config"].get("student")
        assert (student is not None) == (run.phase in ("distill_module", "train_student", "evaluate"))
        if student is not None:
            assert student["plugin"] | {"code": ""} == {"distribution": "m2mkd-soft-moe", "version": "1.0.0", "code": ""}


def test_planned_parameters_are_those_of_the_weights(finished):
    costs, runs = cost_of(finished), by_phase(finished)
    for run in runs["train_student"]:
        with safe_open(folder(finished, run) / "model.safetensors", framework="pt") as file:
            assert costs[run.id].parameters == sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def test_the_modules_have_learned_and_are_what_the_student_began_with(example, finished):
    runs = by_phase(finished)
    assert len(runs["distill_module"]) == 4
    trained = next(run for run in runs["train_student"] if run.config.init == "modules")
    assert set(trained.upstream["modules"]) == {run.id for run in runs["distill_module"]}
    for run in runs["distill_module"]:
        metrics = json.loads((folder(finished, run) / "metrics.json").read_text())
        assert math.isfinite(metrics["val_loss"])


def test_the_use_of_experts_is_measured(finished):
    for run in by_phase(finished)["evaluate"]:
        layers = json.loads((folder(finished, run) / "metrics.json").read_text())["diagnostics"]["layers"]
        assert [layer["name"] for layer in layers] == [f"stages.{index}.blocks.0.mlp" for index in range(4)]
        for layer in layers:
            assert sum(layer["tokens"]) == pytest.approx(1, abs=1e-4) and 0 < layer["router_entropy"] <= math.log(4) + 1e-5


def test_tables_report_and_mlflow_call_it_by_its_name(finished):
    compile_tables(Results.read(finished))
    write_report(Results.read(finished))
    page = Path(finished.pages, "report.html").read_text()
    assert "Soft MoE" in page and 'id="table-soft_moe"' in page and "4 experts of 2 slots in 4 of them" in page
    assert 'id="table-vmoe"' not in page and 'id="table-nac"' not in page
    sync(Results.read(finished))
    names = {tag["mlflow.runName"] for tag in tags("row")}
    assert {"end to end, Soft MoE", "m2mKD, Soft MoE"} <= names
