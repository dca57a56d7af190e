"""The parts of a loss have curves of their own, and the loss stays as it is."""

from dataclasses import replace

import pytest

from m2mkd.config.recipe import Distillation
from m2mkd.distill.losses import Loss, distillation_loss, labels_loss, soft_cross_entropy
from m2mkd.training.curves import read_curves
from m2mkd.training.machine import Policy
from tests.unit.training.stripes import train
from tests.wiring import CPU


def taught(model, images, targets, _):
    """A loss of three parts."""
    logits = model(images)
    loss = distillation_loss(logits, targets, 2 * targets, Distillation(), "batch")
    return loss.with_regulariser(0.1 * logits.square().mean())


def test_each_part_is_logged_and_they_add_up(tmp_path):
    _, measured = train(tmp_path, loss=taught)
    lines = read_curves(tmp_path / "metrics.jsonl")
    for line in lines:
        assert 0.5 * line["cross_entropy"] + 0.5 * line["divergence"] + line["regulariser"] == pytest.approx(line["loss"])
    assert set(measured) == {"loss", "val_loss", "val_top1", "val_top5"}


def test_a_loss_of_one_part_has_one_curve_and_the_same_bits(tmp_path):
    one, _ = train(tmp_path / "one", loss=lambda model, images, targets, _: labels_loss(model(images), targets))
    plain, _ = train(tmp_path / "plain", loss=lambda model, images, targets, _: soft_cross_entropy(model(images), targets))
    assert all(a.equal(b) for a, b in zip(one.parameters(), plain.parameters(), strict=True))
    assert (tmp_path / "one/metrics.jsonl").read_bytes() == (tmp_path / "plain/metrics.jsonl").read_bytes()


def test_broken_off_within_an_epoch_the_parts_go_on(tmp_path):
    train(tmp_path / "whole", loss=taught)
    updates = 0

    def broken(*batch):
        nonlocal updates
        updates += 1
        if updates == 7:
            raise KeyboardInterrupt
        return taught(*batch)

    machine = replace(CPU, checkpoints=Policy(updates=1))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", loss=broken, machine=machine)
    train(tmp_path / "broken", loss=taught, machine=machine)
    assert (tmp_path / "broken/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_without_a_regulariser_nothing_is_added():
    loss = Loss(0, {})  # type: ignore[arg-type]
    assert loss.with_regulariser(0) is loss
