"""Each phase's wiring: which upstream weights go where, what trains, and which loss; the loop itself is not run."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from m2mkd.config import load
from m2mkd.distill.losses import kd_divergence, soft_cross_entropy
from m2mkd.models.build import build_module
from m2mkd.models.vit import StagedViT, build_stage
from m2mkd.models.weights import stage_state, stages_of
from m2mkd.seeds import forked_rng
from m2mkd.study.plan import build_study
from m2mkd.training.job import Job

INDEX = 2


@pytest.fixture(scope="module")
def runs():
    """The runs of the smoke study by phase."""
    planned = build_study(load.settings({"scale": "smoke"}))
    return {phase: [run for run in planned.runs.values() if run.phase == phase] for phase in {run.phase for run in planned.runs.values()}}


@pytest.fixture
def wired(monkeypatch):
    """Runs a phase on given upstream weights without training; gives its outcome and the task that it would train."""

    def run(run, upstream):
        module, seen = import_module(f"m2mkd.training.phases.{run.phase}"), {}
        states = {f"{role}{place}": state for role, given in upstream.items() for place, state in enumerate(given)}
        monkeypatch.setattr(module, "load_weights", lambda folder: states[folder.name], raising=False)
        by_place = lambda folders, indices: {i: states[folder.name] for folder, i in zip(folders, indices, strict=True)}  # noqa: E731
        monkeypatch.setattr(module, "load_modules", by_place, raising=False)
        monkeypatch.setattr(module, "train", lambda job, task, data, recipe: seen.update(task=task) or {}, raising=False)
        monkeypatch.setattr(module, "train_together", lambda jobs, tasks, data, recipe: seen.update(task=tasks[0]) or [{}], raising=False)
        folders = {role: tuple(Path(f"{role}{place}") for place in range(len(given))) for role, given in upstream.items()}
        machine = type("Machine", (), {"device": torch.device("cpu"), "workers": 0})
        return module.run(Job(run.config, 0, folders, Path("work"), lambda: machine, "test")), seen["task"]

    return run


def vit(config, name):
    with forked_rng(name):
        return StagedViT(config, image_size=32, num_classes=10).eval()


def fresh_module(config, index):
    with forked_rng("module", index):
        return build_module(config, index, image_size=32, num_classes=10, stitch_width=64, drop_path=0.0, state_seed=0, compat={})


def assert_same(state, expected):
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def trainable(task):
    return {name for name, parameter in task.network.named_parameters() if parameter.requires_grad}


def test_incubation_loads_the_meta_model_around_the_only_trained_module(runs, wired):
    run = next(run for run in runs["incubate_module"] if run.config.index == INDEX)
    meta = vit(run.config.meta, "meta").state_dict()
    _, task = wired(run, {"meta": [meta]})
    hybrid = task.network
    assert_same(hybrid.prefix[1].state_dict(), stage_state(meta, 1))
    assert_same(hybrid.suffix[0].state_dict(), stage_state(meta, 3))
    assert {name.split(".")[0] for name in trainable(task)} == {"target"}
    assert len(hybrid.target.blocks) == run.config.model.depths[INDEX]


def test_assembly_puts_each_module_in_its_place(runs, wired):
    (run,) = runs["assemble_teacher"]
    teachers = [vit(run.config.model, index).state_dict() for index in range(4)]
    outcome, _ = wired(run, {"modules": [stage_state(state, index) for index, state in enumerate(teachers)]})
    for index, state in enumerate(teachers):
        assert_same(stage_state(outcome.weights, index), stage_state(state, index))


def test_splitting_gives_back_the_stage(runs, monkeypatch):
    from m2mkd.training.phases import split_teacher

    run = next(run for run in runs["split_teacher"] if run.config.index == INDEX)
    state = vit(run.config.model, "teacher").state_dict()
    monkeypatch.setattr(split_teacher, "checked_weights", lambda folder: folder)
    monkeypatch.setattr(split_teacher, "load_file", lambda path: state)
    outcome = split_teacher.run(Job(run.config, 0, {"teacher": (Path("teacher"),)}, Path("work"), lambda: None, "test"))
    assert_same(outcome.weights, stage_state(state, INDEX))


@pytest.mark.parametrize("family", ["vmoe", "nac"])
def test_distillation_compares_the_two_modules_in_the_same_place(runs, wired, family):
    run = next(run for run in runs["distill_module"] if run.config.index == INDEX and run.config.student.family == family)
    config = run.config
    meta = vit(config.meta, "meta")
    with forked_rng("teacher"):
        teacher = build_stage(config.teacher, INDEX, image_size=32, num_classes=10).eval()
    outcome, task = wired(run, {"meta": [meta.state_dict()], "teacher_module": [teacher.state_dict()]})
    assert {name.split(".")[0] for name in trainable(task)} == {"student"}
    assert set(outcome.weights) == set(task.trained.state_dict())

    images, targets = torch.randn(6, 3, 32, 32), torch.full((6, 10), 0.1)
    task.network.eval()
    with torch.no_grad():
        prefix = meta.stages[1](meta.stages[0](images))
        student, taught = (meta.stages[3](module(prefix)) for module in (task.trained, teacher))
        expected = 0.5 * soft_cross_entropy(student, targets) + 0.5 * kd_divergence(student, taught, 1.0, "batch")
        assert torch.allclose(task.loss(images, targets, torch.Generator().manual_seed(0)), expected, atol=1e-6)
        assert torch.allclose(task.predict(images), student, atol=1e-6)


def test_a_student_of_modules_starts_from_each_in_its_place(runs, wired):
    run = next(run for run in runs["train_student"] if run.config.student.family == "vmoe" and run.config.init == "modules")
    modules = [fresh_module(run.config.student, index).state_dict() for index in range(4)]
    outcome, task = wired(run, {"modules": modules})
    for index, stage in stages_of(outcome.weights).items():
        assert stage
        assert_same(modules[index], stage)
    assert all(parameter.requires_grad for parameter in task.trained.parameters())


def test_pure_distillation_learns_from_the_whole_teacher(runs, wired):
    run = next(run for run in runs["train_student"] if run.config.distillation is not None)
    teacher = vit(run.config.teacher, "teacher")
    _, task = wired(run, {"teacher": [teacher.state_dict()]})
    images, targets = torch.randn(6, 3, 32, 32), torch.full((6, 10), 0.1)
    task.network.eval()
    with torch.no_grad():
        student = task.predict(images)
        expected = 0.5 * soft_cross_entropy(student, targets) + 0.5 * kd_divergence(student, teacher(images), 1.0, "batch")
        assert torch.allclose(task.loss(images, targets, torch.Generator().manual_seed(0)), expected, atol=1e-6)


def test_scratch_and_modules_start_alike_where_no_module_brings_weights(runs, wired):
    nacs = {run.config.init: run for run in runs["train_student"] if run.config.student.family == "nac"}
    scratch, _ = wired(nacs["scratch"], {})
    config = nacs["modules"].config
    modules = [
        build_module(
            config.student, index, image_size=32, num_classes=10, stitch_width=64, drop_path=0.0, state_seed=0, compat={}
        ).state_dict()
        for index in range(4)
    ]
    assembled, _ = wired(nacs["modules"], {"modules": modules})
    kept = [name for name in scratch.weights if "signatures" in name or "codes" in name or name.startswith("latent_seeder")]
    assert kept
    assert_same(assembled.weights, {name: scratch.weights[name] for name in kept})
    name = next(name for name, tensor in scratch.weights.items() if name.startswith("propagators.0.") and tensor.ndim == 2)
    assert not torch.equal(assembled.weights[name], scratch.weights[name])
