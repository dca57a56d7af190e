"""A moving average of the weights, where a recipe asks for it: measured, published, resumed to the bit, and in no key elsewhere."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from m2mkd.config import load
from m2mkd.data.stream import eval_batches
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.errors import Interrupted
from m2mkd.evaluation.accuracy import measure
from m2mkd.planning.cost import FLOAT32, Assumptions, cost_of
from m2mkd.study.plan import build_study
from m2mkd.training.curves import read_curves
from m2mkd.training.machine import Policy
from tests.unit.training.stripes import RECIPE, assert_same, stripes, train
from tests.wiring import CPU

AVERAGED = RECIPE.model_copy(update={"ema_decay": 0.8})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    return folder, train(folder, AVERAGED)


def test_the_average_is_published_and_measured(tmp_path, undisturbed):
    trained = []

    def noting(model, images, targets, _):
        trained.append([parameter.detach().clone() for parameter in model.parameters()])
        return soft_cross_entropy(model(images), targets)

    model, measured = train(tmp_path, AVERAGED, loss=noting)
    (newest,) = sorted(tmp_path.glob("checkpoint*"))[-1:]
    last = torch.load(newest, weights_only=True)["module"]
    trained.append([last[name] for name, _ in model.named_parameters()])
    expected = trained[0]
    for weights in trained[1:]:
        expected = [0.8 * mean + 0.2 * weight for mean, weight in zip(expected, weights, strict=True)]
    for parameter, mean, raw in zip(model.parameters(), expected, trained[-1], strict=True):
        torch.testing.assert_close(parameter.detach(), mean, rtol=1e-5, atol=1e-6)
        assert not torch.equal(parameter, raw)
    accuracy = measure(model.eval(), eval_batches(stripes(32), 16, 5), CPU.device)
    assert (accuracy.loss, accuracy.top1) == (measured["val_loss"], measured["val_top1"])


def test_training_itself_is_not_touched_by_it(tmp_path, undisturbed):
    train(tmp_path)
    losses = [[line["loss"] for line in read_curves(folder / "metrics.jsonl")] for folder in (tmp_path, undisturbed[0])]
    assert losses[0] == losses[1]


def test_it_goes_on_to_the_same_bits(tmp_path, undisturbed):
    seen = []

    def loss(model, images, targets, _):
        seen.append(None)
        if len(seen) in (6, 11):
            os.kill(os.getpid(), signal.SIGTERM)
        return soft_cross_entropy(model(images), targets)

    machine = replace(CPU, checkpoints=Policy(updates=3))
    for updates in (6, 11):
        with pytest.raises(Interrupted, match=f"after {updates} updates"):
            train(tmp_path, AVERAGED, loss=loss, machine=machine)
    assert_same(tmp_path, undisturbed[0], train(tmp_path, AVERAGED, loss=loss, machine=machine), undisturbed[1])
    # And once more when all is over.
    assert_same(tmp_path, undisturbed[0], train(tmp_path, AVERAGED, loss=loss, machine=machine), undisturbed[1])


def planned(**recipe):
    return build_study(load.settings({"scale": "smoke", "overrides": {"recipes": {"vmoe_end_to_end_100": recipe}}}))


def test_it_is_in_the_keys_of_those_that_have_it_and_of_no_others():
    assert "ema_decay" not in RECIPE.model_dump(mode="json")
    plain, off, on = planned(), planned(ema_decay=None), planned(ema_decay=0.999)
    assert plain.runs.keys() == off.runs.keys()
    changed = {run_id for run_id in on.runs if run_id not in plain.runs}
    assert {run_id.partition("/")[0] for run_id in changed} == {"train_student", "train_probe", "evaluate"}
    for run_id in changed:
        if run_id.startswith("train_student"):
            cost = cost_of(on, Assumptions())[run_id]
            assert cost.checkpoint == 2 * FLOAT32 * cost.trained_parameters + cost.memory.moments
            assert cost.memory.parameters == FLOAT32 * (cost.parameters + cost.trained_parameters)
