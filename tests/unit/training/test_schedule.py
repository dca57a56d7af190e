"""Learning rates: as released, by epoch and by update."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from m2mkd.config.recipe import Recipe
from m2mkd.training.optim import LearningRate


@pytest.mark.parametrize(
    ("curve", "recipe"),
    [
        ("PT", {"epochs": 300, "batch_size": 2048, "warmup_epochs": 20}),
        ("MT_m2mKD", {"epochs": 100, "batch_size": 2048, "warmup_epochs": 20}),
        ("FT", {"epochs": 100, "batch_size": 1024, "warmup_epochs": 0}),
        ("FS", {"epochs": 100, "batch_size": 40, "warmup_epochs": 20, "lr": 2e-3, "lr_batch": None}),
    ],
)
def test_released_learning_rates(fixtures_dir, curve, recipe):
    recorded = np.load(fixtures_dir / "vmoe" / "vmoe_fixtures.npz")[f"lr.{curve}"]
    parameter = nn.Parameter(torch.zeros(1))
    recipe = Recipe(**({"lr": 5e-4} | recipe))
    rate = LearningRate(torch.optim.SGD([parameter], lr=recipe.peak_lr), recipe, steps_per_epoch=3, late=True)
    assert [rate.set(epoch, 2) for epoch in range(recipe.epochs)] == pytest.approx(recorded[: recipe.epochs], rel=1e-12)


def test_rates_by_update_move_at_every_step():
    parameter = nn.Parameter(torch.zeros(1))
    recipe = Recipe(epochs=3, batch_size=2, lr=1.0, lr_batch=None, warmup_epochs=1, warmup_lr=0.0, min_lr=0.0, schedule_step="update")
    rate = LearningRate(torch.optim.SGD([parameter], lr=1.0), recipe, steps_per_epoch=4)
    rates = [rate.set(epoch, step) for epoch in range(3) for step in range(4)]
    assert rates[:4] == [0.0, 0.25, 0.5, 0.75]
    # The cosine's clock starts with the warm-up: at update 6 of 12 it stands at its half.
    assert rates[6] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_a_late_schedule_lags_one_epoch_at_every_update():
    def rates(late):
        parameter = nn.Parameter(torch.zeros(1))
        recipe = Recipe(epochs=4, batch_size=2, lr=1.0, lr_batch=None, schedule_step="update")
        rate = LearningRate(torch.optim.SGD([parameter], lr=1.0), recipe, steps_per_epoch=3, late=late)
        return [rate.set(epoch, step) for epoch in range(4) for step in range(3)]

    assert rates(True) == rates(False)[:3] + rates(False)[:9]
