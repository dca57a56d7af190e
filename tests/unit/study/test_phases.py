"""Each phase's wiring: which upstream weights go where, what trains, and which loss; the loop itself is not run."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from m2mkd.distill.losses import kd_divergence, soft_cross_entropy
from m2mkd.files import sha256, write_json
from m2mkd.models.vit import build_stage
from m2mkd.models.weights import stage_state, stages_of
from m2mkd.seeds import forked_rng
from m2mkd.study.phase import RECORD, WEIGHTS
from tests.tiny import by_phase, module, smoke, vit
from tests.wiring import job_with, run_phase, wired

INDEX = 2


@pytest.fixture(scope="module")
def runs():
    """The runs of the smoke study by phase."""
    return by_phase(smoke())


@pytest.fixture
def wire(monkeypatch):
    """Runs a phase on given upstream weights without training; gives its outcome and the task that it would train."""

    def run(run, upstream):
        (task,), (outcome,) = wired(monkeypatch, job_with(run.config, upstream))
        return outcome, task

    return run


def assert_same(state, expected):
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def trainable(task):
    return {name for name, parameter in task.network.named_parameters() if parameter.requires_grad}


def test_incubation_loads_the_meta_model_around_the_only_trained_module(runs, wire):
    run = next(run for run in runs["incubate_module"] if run.config.index == INDEX)
    meta = vit(run.config.meta, "meta").state_dict()
    _, task = wire(run, {"meta": [meta]})
    hybrid = task.network
    assert_same(hybrid.prefix[1].state_dict(), stage_state(meta, 1))
    assert_same(hybrid.suffix[0].state_dict(), stage_state(meta, 3))
    assert {name.split(".")[0] for name in trainable(task)} == {"target"}
    assert len(hybrid.target.blocks) == run.config.model.depths[INDEX]


def test_assembly_puts_each_module_in_its_place(runs, wire):
    (run,) = runs["assemble_teacher"]
    teachers = [vit(run.config.model, index).state_dict() for index in range(4)]
    outcome, _ = wire(run, {"modules": [stage_state(state, index) for index, state in enumerate(teachers)]})
    for index, state in enumerate(teachers):
        assert_same(stage_state(outcome.weights, index), stage_state(state, index))


def test_splitting_gives_back_the_stage(runs, tmp_path):
    run = next(run for run in runs["split_teacher"] if run.config.index == INDEX)
    state = vit(run.config.model, "teacher").state_dict()
    folder = tmp_path / "assemble_teacher/0123456789abcdef"
    folder.mkdir(parents=True)
    save_file(state, folder / WEIGHTS)
    write_json(folder / RECORD, {"id": "assemble_teacher/0123456789abcdef", "outputs": {WEIGHTS: sha256(folder / WEIGHTS)}})
    job = replace(job_with(run.config), upstream={"teacher": (folder,)})
    stage = {name: torch.from_numpy(array) for name, array in run_phase(job).weights.items()}
    assert_same(stage, stage_state(state, INDEX))


@pytest.mark.parametrize("family", ["vmoe", "nac"])
def test_distillation_compares_the_two_modules_in_the_same_place(runs, wire, family):
    run = next(run for run in runs["distill_module"] if run.config.index == INDEX and run.config.student.family == family)
    config = run.config
    meta = vit(config.meta, "meta")
    with forked_rng("teacher"):
        teacher = build_stage(config.teacher, INDEX, image_size=32, num_classes=10).eval()
    outcome, task = wire(run, {"meta": [meta.state_dict()], "teacher_module": [teacher.state_dict()]})
    assert {name.split(".")[0] for name in trainable(task)} == {"student"}
    assert set(outcome.weights) == set(task.trained.state_dict())

    images, targets = torch.randn(6, 3, 32, 32), torch.full((6, 10), 0.1)
    task.network.eval()
    with torch.no_grad():
        prefix = meta.stages[1](meta.stages[0](images))
        student, taught = (meta.stages[3](module(prefix)) for module in (task.trained, teacher))
        expected = 0.5 * soft_cross_entropy(student, targets) + 0.5 * kd_divergence(student, taught, 1.0, "batch")
        assert torch.allclose(task.loss(images, targets, torch.Generator().manual_seed(0)).value, expected, atol=1e-6)
        assert torch.allclose(task.predict(images), student, atol=1e-6)


def test_a_student_of_modules_starts_from_each_in_its_place(runs, wire):
    run = next(run for run in runs["train_student"] if run.config.student.family == "vmoe" and run.config.init == "modules")
    modules = [module(run.config.student, index) for index in range(4)]
    outcome, task = wire(run, {"modules": modules})
    for index, stage in stages_of(outcome.weights).items():
        assert stage
        assert_same(modules[index], stage)
    assert all(parameter.requires_grad for parameter in task.trained.parameters())


def test_pure_distillation_learns_from_the_whole_teacher(runs, wire):
    run = next(run for run in runs["train_student"] if run.config.distillation is not None)
    teacher = vit(run.config.teacher, "teacher")
    _, task = wire(run, {"teacher": [teacher.state_dict()]})
    images, targets = torch.randn(6, 3, 32, 32), torch.full((6, 10), 0.1)
    task.network.eval()
    with torch.no_grad():
        student = task.predict(images)
        expected = 0.5 * soft_cross_entropy(student, targets) + 0.5 * kd_divergence(student, teacher(images), 1.0, "batch")
        assert torch.allclose(task.loss(images, targets, torch.Generator().manual_seed(0)).value, expected, atol=1e-6)


def test_scratch_and_modules_start_alike_where_no_module_brings_weights(runs, wire):
    nacs = {run.config.init: run for run in runs["train_student"] if run.config.student.family == "nac"}
    scratch, _ = wire(nacs["scratch"], {})
    config = nacs["modules"].config
    modules = [module(config.student, index) for index in range(4)]
    assembled, _ = wire(nacs["modules"], {"modules": modules})
    kept = [name for name in scratch.weights if "signatures" in name or "codes" in name or name.startswith("latent_seeder")]
    assert kept
    assert_same(assembled.weights, {name: scratch.weights[name] for name in kept})
    name = next(name for name, tensor in scratch.weights.items() if name.startswith("propagators.0.") and tensor.ndim == 2)
    assert not torch.equal(assembled.weights[name], scratch.weights[name])
