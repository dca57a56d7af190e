"""The V-MoE as a network: its sizes, its patterns of experts, and a router with noise in training."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from m2mkd.config.models import VMoEConfig
from m2mkd.config.published import published
from m2mkd.families.build import noise_arguments, regularisation
from m2mkd.models.moe import MoE
from m2mkd.models.vmoe import VMoE, VMoEStage, build_vmoe_module

CONFIG = VMoEConfig(patch_size=4, width=16, heads=2, depths=(2, 2), experts=4)
ROUTED = VMoEConfig(**CONFIG.model_dump() | {"router": "vmoe", "capacity_ratio": 1.5, "importance_weight": 0.1})
SIZES = {"image_size": 8, "num_classes": 5}
FULL = {"image_size": 224, "num_classes": 1000}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("vmoe_base", {}, 483_325_768),
        ("vmoe_base", {"stitch": "kept"}, 488_060_488),
        ("vmoe_base_every_2", {}, 284_946_712),
        ("vmoe_small", {}, 121.34),  # the specification (vmoe.md 6) gives these two in millions
        ("vmoe_small_512", {}, 143.84),
        ("vmoe_base", {"router": "vmoe"}, 483_325_768 - 12 * 8),
    ],
)
def test_parameter_counts(name, changes, expected):
    config = published(name, **changes)
    assert isinstance(config, VMoEConfig)
    with torch.device("meta"):
        found = parameters(VMoE(config, stitch_width=1024, **FULL))
    assert (found if isinstance(expected, int) else round(found / 1e6, 2)) == expected


@pytest.mark.parametrize(("index", "expected"), [(0, 121_984_792), (1, 122_031_384), (2, 122_031_384), (3, 122_012_928)])
def test_parameter_counts_of_students(index, expected):
    config = published("vmoe_base")
    assert isinstance(config, VMoEConfig)
    with torch.device("meta"):
        assert parameters(build_vmoe_module(config, index, stitch_width=1024, **FULL)) == expected


@pytest.mark.parametrize(
    ("pattern", "positions"),
    [("all", range(8)), ("every_2", (1, 3, 5, 7)), ("last_1", (7,)), ("last_2", (5, 7)), ("last_4", (1, 3, 5, 7)), ((0, 6), (0, 6))],
)
def test_patterns_of_experts(pattern, positions):
    config = VMoEConfig(**CONFIG.model_dump() | {"depths": (3, 2, 3), "moe_blocks": pattern})
    network = VMoE(config, **SIZES)
    modules = [build_vmoe_module(config, index, stitch_width=24, **SIZES) for index in range(3)]
    for stages in (network.stages, modules):
        blocks = [block for stage in stages for block in stage.blocks]
        assert tuple(i for i, block in enumerate(blocks) if isinstance(block.mlp, MoE)) == tuple(positions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe_blocks": "last_3"}, "more than the 2 odd blocks of 4"),
        ({"moe_blocks": "last_0"}, "moe_blocks"),
        ({"moe_blocks": [0, 4]}, "names block 4, but there are blocks 0 to 3"),
        ({"batch_priority": True}, "batch_priority True has no effect with router naive"),
        ({"load_weight": 0.1}, "load_weight 0.1 has no effect with router naive"),
        ({"router": "vmoe", "capacity_ratio": 0}, "capacity_ratio"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        VMoEConfig(**CONFIG.model_dump() | changes)


def test_settings_reach_the_router():
    config = VMoEConfig(
        **CONFIG.model_dump()
        | {"router": "vmoe", "capacity_ratio": 1.2, "group_size": 3, "batch_priority": True, "router_noise": 0.5, "load_weight": 0.2}
    )
    router = VMoE(config, **SIZES).stages[1].blocks[0].mlp.router
    assert (router.capacity_ratio, router.eval_capacity_ratio) == (1.2, 1.2)
    assert (router.group_size, router.batch_priority, router.noise) == (3, True, 0.5)
    assert (router.importance_weight, router.load_weight) == (0.005, 0.2)
    separate = VMoE(ROUTED.model_copy(update={"eval_capacity_ratio": 2.0}), **SIZES).stages[0].blocks[0].mlp.router
    assert (separate.capacity_ratio, separate.eval_capacity_ratio) == (1.5, 2.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def routed(**changes) -> VMoE:
    torch.manual_seed(0)
    return VMoE(ROUTED.model_copy(update=changes), **SIZES)


def test_noise_comes_from_the_generator_alone():
    network, images = routed(), torch.randn(4, 3, 8, 8)
    state = torch.get_rng_state()
    first = network(images, noise=generator(1))
    torch.manual_seed(5)
    assert torch.equal(network(images, noise=generator(1)), first)
    assert not torch.equal(network(images, noise=generator(2)), first)
    torch.set_rng_state(state)
    network(images, noise=generator(1))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="pass noise"):
        network(images)
    network.eval()
    assert torch.equal(network(images), network(images, noise=generator(3)))


def test_only_a_router_with_noise_is_given_a_generator():
    source = generator(0)
    assert noise_arguments(CONFIG, source) == {}
    assert noise_arguments(ROUTED, source) == {"noise": source}
    module = build_vmoe_module(ROUTED, 1, stitch_width=24, **SIZES)
    assert isinstance(module, VMoEStage)
    assert module(torch.randn(2, 5, 24), **noise_arguments(ROUTED, source)).shape == (2, 5)


def test_auxiliary_losses_of_all_layers_join_the_loss():
    network, images = routed(), torch.randn(4, 3, 8, 8)
    network(images, noise=generator(1))
    loss = regularisation(network.config, network, {})
    loss.backward()
    gates = [layer.gate.weight for layer in network.modules() if isinstance(layer, MoE)]
    assert len(gates) == 4
    assert all(gate.grad.abs().sum() > 0 for gate in gates)
    network(images, noise=generator(1))
    parts = [layer.take_auxiliary_loss() for layer in network.modules() if isinstance(layer, MoE)]
    torch.testing.assert_close(loss, sum(parts))
    assert regularisation(network.config, network, {}) == 0  # taken
    copy.deepcopy(network)
    plain = VMoE(CONFIG, **SIZES)
    plain(images)
    assert regularisation(plain.config, plain, {}) == 0


def test_gradient_checkpointing_meets_the_same_noise():
    images = torch.randn(4, 3, 8, 8)
    gradients = []
    for enable in (False, True):
        network = routed(router_noise=3.0)
        network.set_grad_checkpointing(enable)
        (network(images, noise=generator(1)).square().sum() + regularisation(network.config, network, {})).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)
