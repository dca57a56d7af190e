"""Distillation of one module from Python: the phase's own bits, any torch module, any loader."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import m2mkd
from m2mkd.config.objective import Objective
from m2mkd.config.recipe import Augmentation
from m2mkd.data.stream import TrainStream
from m2mkd.families.build import build_module
from m2mkd.models.weights import load_weights
from m2mkd.seeds import derive_seed, forked_rng
from m2mkd.training.store import PUBLISHED_FILES
from tests.tiny import of_phase
from tests.wiring import job_with, run_phase

TERMS = {"terms": [{"kind": "labels", "weight": 0.5}, {"kind": "soft", "weight": 0.5, "temperature": 2.0}]}
RECIPE = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "lr_batch": None}


@pytest.fixture
def networks(project):
    """Meta model, the teacher's stage 1, and the run that distils module 1 of the V-MoE."""
    (meta,) = of_phase(project, "pretrain_meta")
    stage = next(run for run in of_phase(project, "split_teacher") if run.config.index == 1)
    module = next(run for run in of_phase(project, "distill_module") if run.config.index == 1)
    return meta, stage, module


def loader(shuffle=True):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(20, 3, 32, 32, generator=generator), torch.arange(20) % 10
    return DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=shuffle)


def mlp():
    with forked_rng("mlp"):
        return nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 64))


class Streamed:
    """The workflow's own training batches, as a loader."""

    def __init__(self, stream):
        self.stream, self.epoch = stream, -1

    def __len__(self):
        return self.stream.steps_per_epoch

    def __iter__(self):
        self.epoch += 1
        return ((batch.images, batch.labels) for batch in self.stream.epoch(self.epoch))


def test_the_result_is_that_of_the_workflow_to_the_bit(project, networks, tmp_path):
    meta, stage, run = networks
    plain = Augmentation(mixup=0, cutmix=0)
    recipe = run.config.recipe.model_copy(update={"epochs": 2, "drop_path": 0.0, "train_share": 1.0, "augmentation": plain})
    config = run.config.model_copy(update={"recipe": recipe, "loss": None, "objective": Objective.model_validate(TERMS)})
    states = [load_weights(Path(project.folder(one.id))) for one in (meta, stage)]
    job = job_with(config, {"meta": states[:1], "teacher_module": states[1:]}, packs=PUBLISHED_FILES.pack, work=tmp_path / "job")
    expected = run_phase(job)

    with forked_rng("init", "student module", config.student.family, 1, config.seed):
        sizes = {"image_size": config.data.image_size, "num_classes": 10, "stitch_width": config.meta.width, "drop_path": 0.0}
        module = build_module(config.student, 1, state_seed=derive_seed("state", 1, config.seed), compat=config.compat, **sizes)
    pack = PUBLISHED_FILES.pack(config.data)
    split = pack.split("train")
    stream = TrainStream(split, range(len(split)), 10, recipe, ("data", config.data.name, config.phase, config.seed))
    given = m2mkd.load_network(meta.id), m2mkd.load_network(stage.id), module, Streamed(stream)
    *_, line = m2mkd.distill_module(*given, TERMS, index=1, recipe=recipe, device="cpu")
    assert line["loss"] == expected.metrics["loss"]
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in expected.weights.items())


def test_any_module_learns_and_nothing_else(networks):
    meta, stage = (m2mkd.load_network(run.id) for run in networks[:2])
    before = {name: tensor.clone() for name, tensor in meta.state_dict().items()}
    module, lines = mlp(), []
    lines = m2mkd.distill_module(
        meta, stage, module, loader(), TERMS, index=1, recipe=RECIPE | {"epochs": 6}, validation=loader(False), device="cpu"
    )
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6] and lines[-1]["step"] == 18
    assert lines[-1]["loss"] < lines[0]["loss"] and {"cross_entropy", "divergence", "val_top1"} <= lines[-1].keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in meta.state_dict().items())
    assert not module.training and not torch.equal(module[0].weight, mlp()[0].weight)


def test_it_repeats_and_resumes(networks, tmp_path):
    meta, stage = (m2mkd.load_network(run.id) for run in networks[:2])

    def trained(epochs, **options):
        module = mlp()
        fields = RECIPE | {"epochs": epochs, "schedule": "constant"}
        lines = m2mkd.distill_module(meta, stage, module, loader(), TERMS, index=1, recipe=fields, device="cpu", **options)
        return lines, module[0].weight.detach()

    whole, weight = trained(2)
    again, same = trained(2)
    assert whole == again and torch.equal(weight, same)
    assert not torch.equal(trained(2, seed=1)[1], weight)
    trained(1, folder=tmp_path)
    resumed, continued = trained(2, folder=tmp_path)
    assert resumed == whole and torch.equal(continued, weight)


def test_a_term_with_parameters_and_no_teacher(networks):
    meta, stage = (m2mkd.load_network(run.id) for run in networks[:2])
    (line,) = m2mkd.distill_module(
        meta, None, mlp(), loader(), {"terms": [{"kind": "labels"}]}, index=1, recipe=RECIPE | {"epochs": 1}, device="cpu"
    )
    assert line["loss"] == pytest.approx(line["cross_entropy"]) if "cross_entropy" in line else line["loss"] > 0
    with pytest.raises(m2mkd.InputError, match="Sequential has no tokens of stages; remove the terms"):
        m2mkd.distill_module(meta, stage, mlp(), loader(), {"terms": [{"kind": "features"}]}, index=1, recipe=RECIPE, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": {"terms": [{"kind": "sotf"}]}}, "objective: terms.*did you mean 'soft'"),
        ({"recipe": {"epochs": 1, "batch_size": 8}}, "recipe: .*lr"),
        ({"recipe": RECIPE | {"epoch": 3}}, "did you mean 'epochs'"),
        ({"index": 7}, "module 7 does not exist"),
        ({"loader": []}, "loader: has no batches"),
        ({"teacher_stage": None}, "needs the teacher's stage"),
        ({"device": "gpu"}, "not a device"),
    ],
)
def test_bad_input_is_one_line(networks, change, message):
    meta, stage = (m2mkd.load_network(run.id) for run in networks[:2])
    given = {"meta": meta, "teacher_stage": stage, "student_module": mlp(), "loader": loader(), "objective": TERMS, "index": 1}
    with pytest.raises(m2mkd.InputError, match=message) as error:
        m2mkd.distill_module(**given | {"recipe": RECIPE, "device": "cpu"} | change)
    assert "\n" not in str(error.value)
