"""The training loop: it learns, resumes to the bit, and says how far it is."""

import io
import json
import os
import re
import signal
import time
from dataclasses import replace

import psutil
import pytest
import torch
from rich.console import Console
from torch import nn

from m2mkd.data.stream import TrainStream
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.errors import InputError, Interrupted
from m2mkd.signals import SIGNALS
from m2mkd.training import progress
from m2mkd.training.curves import Curves, read_curves
from m2mkd.training.machine import Policy, machine_for
from m2mkd.training.usage import Usage
from tests.unit.training.stripes import PLAIN, RECIPE, assert_same, stripes, train
from tests.wiring import CPU

PLAIN_RECIPE = RECIPE.model_copy(update={"augmentation": PLAIN.model_copy(update={"mixup": 0.0})})


def test_it_learns(tmp_path):
    _, measured = train(tmp_path, RECIPE.model_copy(update={"epochs": 30, "drop_path": 0.0, "lr": 2e-3}))
    assert measured["val_top1"] > 0.8  # chance is 0.5
    lines = read_curves(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, 31))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_same_seeds_give_the_same_bits_whatever_the_global_state(tmp_path):
    first, _ = train(tmp_path / "a")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    second, _ = train(tmp_path / "b")
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(folder)


@pytest.mark.parametrize("policy", [Policy(minutes=0.0), Policy(updates=3), Policy(updates=7)])
def test_broken_off_in_any_update_it_goes_on_to_the_same_bits(tmp_path, undisturbed, policy):
    machine = replace(CPU, checkpoints=policy)
    updates, stop = 0, 2

    def loss(model, images, targets, noise):
        nonlocal updates
        updates += 1
        if updates == stop:
            raise ZeroDivisionError
        return soft_cross_entropy(model(images), targets)

    breaks = 0
    while True:
        try:
            result = train(tmp_path, loss=loss, machine=machine)
            break
        except ZeroDivisionError:
            breaks += 1
            assert breaks < 10
            stop = updates + 9  # of 16; what is not in a checkpoint is done again
    assert breaks >= 2
    assert_same(tmp_path, undisturbed[0], result, undisturbed[1])


def test_what_was_being_saved_is_on_the_disk_when_an_error_ends_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr("m2mkd.training.checkpoint.os.fsync", lambda _: time.sleep(0.3))
    updates = 0

    def loss(model, images, targets, noise):
        nonlocal updates
        updates += 1
        if updates == 2:
            raise ZeroDivisionError
        return soft_cross_entropy(model(images), targets)

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, loss=loss, machine=replace(CPU, checkpoints=Policy(updates=1)))
    assert [path.name.split(".")[0] for path in tmp_path.glob("*checkpoint*")] == ["checkpoint1-000000001"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_after_the_update_that_runs(tmp_path, undisturbed, number):
    seen = []

    def loss(model, images, targets, noise):
        seen.append(None)
        if len(seen) == 6:
            os.kill(os.getpid(), number)
        return soft_cross_entropy(model(images), targets)

    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Interrupted, match=f"{number.name}: saved after 6 updates"):
        train(tmp_path, loss=loss)
    assert [signal.getsignal(each) for each in SIGNALS] == before
    result = train(tmp_path, loss=loss)
    assert len(seen) == 16
    assert_same(tmp_path, undisturbed[0], result, undisturbed[1])


def test_a_signal_while_measuring_is_heeded(tmp_path, undisturbed):
    seen = []

    def predict(images):
        seen.append(None)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict.model(images)

    def loss(model, images, targets, noise):
        predict.model = model
        return soft_cross_entropy(model(images), targets)

    with pytest.raises(Interrupted, match="saved after 4 updates"):
        train(tmp_path, predict=predict, loss=loss)
    assert len(seen) == 3, "at once, for a validation set may be large"
    assert_same(tmp_path, undisturbed[0], train(tmp_path, predict=predict, loss=loss), undisturbed[1])


def test_processes_that_load_leave_signals_to_the_loop(tmp_path, undisturbed):
    before, loading = psutil.Process().children(), []

    def loss(model, images, targets, noise):
        if not loading:
            loading.extend(child for child in psutil.Process().children() if child not in before)
            for process in (*loading, psutil.Process()):  # as a signal to the whole group
                process.send_signal(signal.SIGTERM)
        return soft_cross_entropy(model(images), targets)

    with pytest.raises(Interrupted, match="saved after 1 updates"):
        train(tmp_path, loss=loss, machine=replace(CPU, workers=1))
    gone, alive = psutil.wait_procs(loading, timeout=10)
    assert gone and not alive
    assert_same(tmp_path, undisturbed[0], train(tmp_path, loss=loss), undisturbed[1])


def test_a_second_signal_does_not_wait_for_the_update(tmp_path):
    def loss(model, images, targets, noise):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it waited")

    with pytest.raises(Interrupted, match="SIGTERM"):
        train(tmp_path, loss=loss)


def test_what_an_interrupted_session_has_spent_is_kept(tmp_path):
    now = 0.0

    def loss(model, images, targets, noise):
        nonlocal now
        now += 1.0
        if now == 6.0:
            os.kill(os.getpid(), signal.SIGTERM)
        return soft_cross_entropy(model(images), targets)

    with pytest.raises(Interrupted):
        train(tmp_path, loss=loss, usage=Usage(clock=lambda: now))
    now += 1000.0  # nobody was there
    train(tmp_path, loss=loss, usage=Usage(clock=lambda: now))
    (newest,) = sorted(tmp_path.glob("checkpoint*"))[-1:]
    assert torch.load(newest, weights_only=True)["progress"]["spent"] == {"seconds": 16.0}


def test_a_finished_training_is_not_repeated(tmp_path):
    _, measured = train(tmp_path)

    def refuse(_):
        raise AssertionError("it measured again")

    assert train(tmp_path, predict=refuse)[1] == measured


def test_a_loss_that_is_not_finite_stops_with_the_mend(tmp_path):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch .* lower the recipe's lr"):
        train(tmp_path, RECIPE.model_copy(update={"lr": 1e30, "clip_norm": None, "warmup_epochs": 0, "epochs": 3}))


def test_a_measurement_that_is_not_finite_stops_with_the_mend(tmp_path):
    seen = []

    def predict(images):
        seen.append(None)
        return torch.full((len(images), 2), 0.0 if len(seen) <= 7 else torch.nan)

    with pytest.raises(InputError, match=r"stripes: val_loss is nan after epoch 2.*; lower the recipe's lr"):
        train(tmp_path, predict=predict)
    assert len(read_curves(tmp_path / "metrics.jsonl")) == 1


def test_a_scaled_gradient_gives_the_same_bits_and_the_scale_is_kept(tmp_path, monkeypatch, undisturbed):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=2.0**12, growth_interval=6))
    assert_same(tmp_path / "scaled", undisturbed[0], train(tmp_path / "scaled"), undisturbed[1])  # by a power of two
    # Six updates double the scale once; what goes on from a checkpoint has the scale of that time.
    (path,) = sorted((tmp_path / "scaled").glob("checkpoint*"))[-1:]
    assert torch.load(path, weights_only=True)["scaler"]["scale"] == 2.0**14


def test_compiled_it_comes_to_the_same_with_a_backend_that_changes_nothing(tmp_path, monkeypatch, undisturbed):
    compiled = []

    def compile_(module):
        compiled.append(module)
        module.forward = torch.compile(module.forward, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_)
    assert_same(tmp_path, undisturbed[0], train(tmp_path, machine=replace(CPU, compiled=True)), undisturbed[1])
    assert len(compiled) == 1


def test_compiling_is_refused_on_a_cpu():
    with pytest.raises(InputError, match="--compile: only for GPUs"):
        machine_for("cpu", 1, compiled=True)()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_has_loss_speed_and_time_left(monkeypatch, tmp_path, terminal):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **options: Console(file=shown, force_terminal=terminal, width=200))
    train(tmp_path)
    if terminal:
        assert "epoch 4/4" in shown.getvalue() and "images/s" in shown.getvalue()
    else:
        lines = [line for line in shown.getvalue().splitlines() if "at chance" not in line]
        assert len(lines) == RECIPE.epochs
        assert re.fullmatch(r"stripes  epoch 4/4  lr .* loss 0\.\d+  val_loss .* val_top1 .*  [\d,]+ images/s  0:00:00 left", lines[-1])


def test_fp16_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        train(tmp_path, RECIPE.model_copy(update={"precision": "fp16"}))


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path):
    curves = Curves(tmp_path / "metrics.jsonl")
    size = curves.append({"epoch": 1})
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="shorter than its checkpoint"):
        curves.cut(size)


def test_an_image_is_augmented_alike_in_any_share_of_the_set():
    data = stripes(32)
    whole, part = (TrainStream(data, share, 2, PLAIN_RECIPE, ("data", "stripes", 0)) for share in (range(32), range(0, 32, 2)))

    def views(stream):
        return {int(id_): image for batch in stream.epoch(0) for id_, image in zip(batch.ids, batch.images, strict=True)}

    seen = views(whole)
    assert len(views(part)) == 16
    assert all(torch.equal(image, seen[id_]) for id_, image in views(part).items())


def test_curves_are_plain_json(tmp_path):
    train(tmp_path, RECIPE.model_copy(update={"epochs": 2, "warmup_epochs": 0, "eval_every": 2}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "val_top1" not in lines[0]
    assert set(lines[1]) == {"epoch", "step", "lr", "loss", "val_loss", "val_top1", "val_top5"}
