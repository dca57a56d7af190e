"""The optimiser's groups are those of timm wherever timm can say them."""

import pytest
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from m2mkd.config.models import ViTConfig
from m2mkd.config.recipe import Recipe
from m2mkd.errors import InputError
from m2mkd.models.vit import StagedViT
from m2mkd.training.optim import LearningRate, build_optimizer

RECIPE = Recipe(epochs=1, batch_size=2, lr=0.1, weight_decay=0.3)
NETWORK = StagedViT(ViTConfig(patch_size=8, width=8, heads=2, depths=(1, 1)), image_size=16, num_classes=3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"no_weight_decay": NETWORK.no_weight_decay()}, {"no_weight_decay_list": NETWORK.no_weight_decay()}),
        ({"decay_all": True}, {"weight_decay_exclude_1d": False}),
    ],
)
def test_the_groups_and_their_order_are_timms(ours, theirs):
    found = build_optimizer(NETWORK, RECIPE, **ours).param_groups
    expected = param_groups_weight_decay(NETWORK, RECIPE.weight_decay, **theirs)
    assert [(group["weight_decay"], list(map(id, group["params"]))) for group in found] == [
        (group["weight_decay"], list(map(id, group["params"]))) for group in expected
    ]


def test_without_any_decay_the_order_is_our_own():
    """Why timm's groups are not used: the norm of the gradient is added up in their order."""
    found = build_optimizer(NETWORK, RECIPE.model_copy(update={"weight_decay": 0.0})).param_groups
    assert len(found) == 2
    assert len(param_groups_weight_decay(NETWORK, 0.0)) == 1
    assert all(parameter.ndim > 1 for parameter in found[1]["params"])
    assert sum(len(group["params"]) for group in found) == len(list(NETWORK.parameters()))


def test_weight_decay_spares_biases_norms_and_named_parameters():
    groups = build_optimizer(NETWORK, RECIPE, NETWORK.no_weight_decay()).param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    names = {name for name, parameter in NETWORK.named_parameters() if id(parameter) in decayed}
    assert names == {
        name
        for name, parameter in NETWORK.named_parameters()
        if parameter.ndim > 1 and not name.endswith((".bias", "cls_token", "pos_embed"))
    }
    everything = build_optimizer(NETWORK, RECIPE, decay_all=True).param_groups
    assert sum(len(group["params"]) for group in everything if group["weight_decay"] == RECIPE.weight_decay) == len(
        list(NETWORK.parameters())
    )


def test_gains_decay_only_where_asked():
    module = nn.ParameterDict(
        {"gain": nn.Parameter(torch.tensor(0.1)), "bias": nn.Parameter(torch.zeros(3)), "w": nn.Parameter(torch.zeros(2, 2))}
    )

    def decayed(**options):
        groups = build_optimizer(module, RECIPE, **options).param_groups
        return {tuple(p.shape) for group in groups if group["weight_decay"] for p in group["params"]}

    assert decayed() == {(2, 2)}
    assert decayed(decay_scalars=True) == {(2, 2), ()}
    assert decayed(no_weight_decay={"w"}) == set()


def rates(**recipe):
    recipe = Recipe(epochs=4, batch_size=2, lr=0.1, lr_batch=None, schedule_step="update", **recipe)
    rate = LearningRate(build_optimizer(NETWORK, recipe), recipe, 10)
    return [rate.set(step // 10, step % 10) for step in range(40)]


def test_a_warm_up_counted_in_updates_is_that_of_as_many_epochs():
    assert rates(warmup_updates=20) == rates(warmup_epochs=2)
    counted = rates(warmup_updates=7, warmup_epochs=2)
    assert max(counted) == counted[7]
    assert rates(warmup_updates=0, warmup_epochs=2) == rates()


def test_a_warm_up_as_long_as_the_training_is_refused():
    with pytest.raises(InputError, match="warmup_updates 40 must be fewer than its 40 updates"):
        rates(warmup_updates=40)
    with pytest.raises(ValueError, match="warmup_updates needs schedule_step: update"):
        Recipe(epochs=4, batch_size=2, lr=0.1, warmup_updates=3)
