"""What a training says, and how it ends, when something goes wrong."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch

from m2mkd.data.stream import eval_batches
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import measure
from m2mkd.models.moe import MoE
from m2mkd.ranks import ALONE
from m2mkd.study.files import planned_runs
from m2mkd.training import guards
from m2mkd.training.curves import read_curves
from m2mkd.training.guards import ExpertWatch, LossWatch, memory_explained, out_of_memory
from m2mkd.training.job import execute
from tests import forked
from tests.fabricated import pretend_data
from tests.unit.training.stripes import RECIPE, stripes, train
from tests.wiring import CPU, Pretended


class Spoilt:
    """The usual loss, but in some updates (from 1) infinite, or with an infinite gradient."""

    def __init__(self, kind, *updates):
        self.kind, self.updates, self.seen = kind, updates, 0

    def __call__(self, model, images, targets, noise):
        self.seen += 1
        loss = soft_cross_entropy(model(images), targets)
        if self.seen not in self.updates:
            return loss
        return loss * math.nan if self.kind == "loss" else loss + _Steep.apply(loss)


class _Steep(torch.autograd.Function):
    """Zero, whose gradient is infinite."""

    @staticmethod
    def forward(ctx, value):
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.mark.parametrize(("kind", "message"), [("loss", "the loss is nan"), ("gradient", "the norm of the gradient is (nan|inf)")])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_no_number_stops_with_the_samples_on_record(tmp_path, kind, message, clip_norm):
    with pytest.raises(InputError, match=f"{message} in epoch 2, step 2 .*nonfinite.json.*; lower the recipe's lr"):
        train(tmp_path, RECIPE.model_copy(update={"clip_norm": clip_norm}), loss=Spoilt(kind, 6))
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (found["epoch"], found["step"], len(found["samples"])) == (2, 2, RECIPE.batch_size)


def test_as_many_as_allowed_are_left_out_and_counted(tmp_path, capsys):
    recipe = RECIPE.model_copy(update={"skip_nonfinite": 2})
    model, measured = train(tmp_path / "left out", recipe, loss=Spoilt("loss", 6, 7))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert [line.get("skipped") for line in read_curves(tmp_path / "left out/metrics.jsonl")] == [None, 2, 2, 2]
    assert measured["skipped"] == 2
    assert "left out, 2 of at most 2" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(InputError, match="epoch 3, step 1"):
        train(tmp_path / "too many", recipe, loss=Spoilt("loss", 6, 7, 9))


def test_an_update_that_is_left_out_changes_nothing(tmp_path):
    """With the last update of the last epoch left out, the weights are those that an interruption before it would have left."""
    recipe = RECIPE.model_copy(update={"skip_nonfinite": 1})
    states = []

    def noting(model, images, targets, noise):
        states.append([parameter.detach().clone() for parameter in model.parameters()])
        return spoilt(model, images, targets, noise)

    spoilt = Spoilt("gradient", 16)
    model, _ = train(tmp_path, recipe, loss=noting)
    assert all(torch.equal(a, b) for a, b in zip(states[-1], model.parameters(), strict=True))


def test_a_gradient_that_no_scale_makes_a_number_stops(tmp_path, monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=4.0))
    spoilt = Spoilt("gradient", *range(3, 17))
    with pytest.raises(InputError, match=r"the norm of the gradient is (nan|inf) in epoch 2, step 1"):  # the scale was 4, and 2
        train(tmp_path, loss=spoilt)


def test_a_leap_of_the_loss_is_told_once():
    watch = LossWatch()
    assert [watch.leaps_from(1.0 + 0.001 * number) for number in range(guards.WINDOW)] == [None] * guards.WINDOW
    assert watch.leaps_from(2.9) is None
    assert watch.leaps_from(4.0) == pytest.approx(1.025, abs=0.01)
    assert watch.leaps_from(4.0) is None


def test_a_training_tells_of_a_leap(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guards, "WINDOW", 4)
    seen = []

    def loss(model, images, targets, noise):
        seen.append(None)
        return soft_cross_entropy(model(images), targets) * (50 if len(seen) == 10 else 1)

    train(tmp_path, loss=loss)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("the loss spikes to") == 1 and "in epoch 3, step 2" in said


def test_an_expert_that_nobody_asks_is_told():
    layer = MoE(8, 16, experts=3, top_k=1)
    network = torch.nn.Sequential(layer)
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    watch = ExpertWatch(network)
    network(torch.randn(2, 3, 8))
    watch.saw()
    assert watch.idle(ALONE) == []  # it did not see the beginning
    watch.begin()
    network(torch.randn(2, 3, 8))
    watch.saw()
    layer.gate.bias.data[1] = 2.0
    network(torch.randn(2, 3, 8))
    watch.saw()
    assert watch.idle(ALONE) == ["0: expert 2"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("[enforce fail] can't allocate memory: 8 GB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_too_little_memory_names_the_batch_and_the_plan(error, monkeypatch, tmp_path):
    def fail(job):
        raise error

    study = forked.planned()
    planned = planned_runs(study)[forked.student(study).id]
    monkeypatch.chdir(tmp_path)
    pretend_data(planned.run.config)
    with pytest.raises(InputError) as told:
        execute([planned], lambda: replace(CPU, device_batch=8), print, code=Pretended(fail))
    expected = r"train_student/\w+: out of memory with 8 images at a time on cpu; the plan is 0\.0 GB; try --device-batch 4"
    assert re.fullmatch(expected, str(told.value))
    assert out_of_memory("x", 2, torch.device("cpu"), 3_140_000_000).endswith("the plan is 3.1 GB; try a device with more")


def test_a_process_that_loads_and_is_killed_is_one_line():
    with (
        pytest.raises(InputError, match=r"a data-loading worker has died.*; lower --workers.* \(DataLoader worker \(pid 7\)"),
        _explained(),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="shape"), _explained():
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nshape")


def _explained():
    return memory_explained(lambda: "")


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, torch.AcceleratorError])
def test_other_errors_pass(kind):
    with pytest.raises(kind, match="shape"), _explained():
        raise kind("shape")


def test_weights_that_have_diverged_are_not_measured():
    found = measure(lambda images: torch.full((len(images), 2), torch.nan), eval_batches(stripes(8), 16, 5), CPU.device)
    with pytest.raises(InputError, match="the loss on 8 images is nan: the measured weights have diverged; train again"):
        found.summary()


def test_clipping_acts_on_the_gradient_of_the_whole_batch(tmp_path):
    """Accumulated or not, a clipped update is the same."""
    recipe = RECIPE.model_copy(update={"clip_norm": 0.05, "drop_path": 0.0, "epochs": 1, "warmup_epochs": 0})
    whole, _ = train(tmp_path / "whole", recipe)
    parts, _ = train(tmp_path / "parts", recipe, machine=replace(CPU, device_batch=4))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
