"""The mixture of experts and the networks that hold it."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from m2mkd.config.models import VMoEConfig
from m2mkd.errors import InputError
from m2mkd.models.moe import MoE
from m2mkd.models.stitch import Stitch
from m2mkd.models.vmoe import VMoE, build_vmoe_module, moe_positions

CONFIG = VMoEConfig(patch_size=4, width=16, heads=2, depths=(2, 2, 2), experts=4)
SIZES = {"image_size": 8, "num_classes": 5}


def masked_loop(moe: MoE, x: Tensor) -> Tensor:
    """The definition: every expert on every token, weighted by the softmax over the chosen logits, else by 0."""
    logits = moe.gate(x)
    chosen = logits.topk(moe.top_k, dim=-1).indices
    weights = logits.masked_fill(~F.one_hot(chosen, logits.shape[-1]).sum(dim=-2).bool(), -math.inf).softmax(dim=-1)
    outputs = [
        F.linear(F.gelu(F.linear(x, moe.fc1.weight[e], moe.fc1.bias[e])), moe.fc2.weight[e], moe.fc2.bias[e])
        for e in range(logits.shape[-1])
    ]
    return sum(weights[..., e, None] * output for e, output in enumerate(outputs))


def seeded_moe(seed: int, width: int, hidden: int, experts: int, top_k: int) -> MoE:
    moe = MoE(width, hidden, experts=experts, top_k=top_k).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in moe.parameters():
        nn.init.normal_(parameter, generator=generator)
    return moe


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 12),
    routing=st.integers(1, 6).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts))),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_dispatch_equals_a_masked_loop(seed, tokens, routing, spread):
    experts, top_k = routing
    moe = seeded_moe(seed, 3, 7, experts, top_k)
    with torch.no_grad():
        moe.gate.bias.mul_(spread)  # from balanced to nearly all tokens at the same experts
    x = torch.randn(2, tokens, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    ours = [value.requires_grad_() for value in (x.clone(), x.clone())]
    outputs = [moe(ours[0]), masked_loop(moe, ours[1])]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    probe = torch.linspace(-1, 1, outputs[0].numel(), dtype=torch.float64).view_as(outputs[0])
    gradients = [
        torch.autograd.grad((output * probe).sum(), [value, *moe.parameters()]) for output, value in zip(outputs, ours, strict=True)
    ]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    counts = moe.tokens_per_expert
    assert counts.tolist() == F.one_hot(moe.gate(x).topk(top_k).indices, experts).sum(dim=(0, 1, 2)).tolist()
    assert counts.sum() == 2 * tokens * top_k


def test_an_idle_expert_gets_zero_gradients_not_none():
    moe = seeded_moe(0, 3, 5, experts=4, top_k=2)
    with torch.no_grad():
        moe.gate.weight.zero_()
        moe.gate.bias.copy_(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    moe(torch.randn(1, 6, 3, dtype=torch.float64)).sum().backward()
    assert moe.tokens_per_expert.tolist() == [6, 6, 0, 0]
    for parameter in (*moe.fc1.parameters(), *moe.fc2.parameters()):
        assert parameter.grad[:2].abs().sum() > 0
        assert parameter.grad[2:].count_nonzero() == 0


def test_weights_of_a_token_sum_to_one():
    moe = seeded_moe(0, 3, 5, experts=5, top_k=3)
    chosen, weights = moe.route(torch.randn(9, 3, dtype=torch.float64))
    assert chosen.shape == weights.shape == (9, 3)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(9, dtype=torch.float64))


def test_bits_do_not_depend_on_chance_or_threads():
    moe = MoE(16, 64, experts=8, top_k=6)
    for parameter in moe.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(64, 65, 16, requires_grad=True)

    def step() -> list[Tensor]:
        output = moe(x)
        return [output, *torch.autograd.grad(output.square().sum(), [x, *moe.parameters()])]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        reference = step()
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(reference, step(), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_bf16_autocast_stays_close_to_fp32():
    torch.manual_seed(0)
    network = VMoE(CONFIG.model_copy(update={"experts": 1, "top_k": 1}), **SIZES)  # one expert, so that routing cannot differ
    images = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images)
    logits.float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    torch.testing.assert_close(logits.float(), network(images), rtol=0.05, atol=0.01)


def test_expert_init():
    torch.manual_seed(0)
    released = MoE(32, 128, experts=8, top_k=2, expert_init="fastmoe")
    bound = 1 / math.sqrt(32 * 128)
    ours = MoE(32, 128, experts=8, top_k=2, expert_init="trunc02")
    for layer in (released.fc1, released.fc2):
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    for layer in (ours.fc1, ours.fc2):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for layer in (released.fc1, released.fc2, ours.fc1, ours.fc2):
        assert layer.bias.count_nonzero() == 0


def test_the_gate_is_initialised_like_a_linear_map():
    torch.manual_seed(0)
    network = VMoE(CONFIG.model_copy(update={"width": 256, "depths": (1,)}), **SIZES)
    gate = network.stages[0].blocks[0].mlp.gate
    assert gate.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert gate.bias.count_nonzero() == 0


@pytest.mark.parametrize(("name", "expected"), [("all", (0, 1, 2, 3, 4, 5)), ("every_2", (1, 3, 5)), ("last_2", (3, 5))])
def test_moe_blocks(name, expected):
    config = CONFIG.model_copy(update={"moe_blocks": name})
    assert moe_positions(config) == expected
    network = VMoE(config, **SIZES)
    blocks = [block for stage in network.stages for block in stage.blocks]
    assert tuple(i for i, block in enumerate(blocks) if isinstance(block.mlp, MoE)) == expected
    modules = [build_vmoe_module(config, index, stitch_width=24, **SIZES) for index in range(3)]
    blocks = [block for module in modules for block in module.blocks]
    assert tuple(i for i, block in enumerate(blocks) if isinstance(block.mlp, MoE)) == expected


@pytest.mark.parametrize(("index", "pre", "post"), [(0, False, True), (1, True, True), (2, True, False)])
def test_student_modules_fit_between_meta_stages(index, pre, post):
    module = build_vmoe_module(CONFIG, index, stitch_width=24, drop_path=0.1, **SIZES)
    assert (module.first, module.last) == (index == 0, index == 2)
    assert (isinstance(module.pre_stitch, Stitch), isinstance(module.post_stitch, Stitch)) == (pre, post)
    x = torch.randn(3, 3, 8, 8) if index == 0 else torch.randn(3, 5, 24)
    assert module(x).shape == ((3, 5) if index == 2 else (3, 5, 24))
    assert module.blocks[-1].drop_path2.drop_prob == pytest.approx(0.1)


@pytest.mark.parametrize("index", [-1, 3])
def test_modules_are_not_counted_from_the_end(index):
    with pytest.raises(InputError, match="modules 0 to 2"):
        build_vmoe_module(CONFIG, index, stitch_width=24, **SIZES)


def test_stitch_kept_needs_a_width():
    kept = CONFIG.model_copy(update={"stitch": "kept"})
    with pytest.raises(InputError, match="teacher's width"):
        VMoE(kept, **SIZES)
    network = VMoE(kept, stitch_width=24, **SIZES)
    assert [stage.pre_stitch.fc.in_features for stage in network.stages[1:]] == [24, 24]
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    assert not [name for name in VMoE(CONFIG, stitch_width=24, **SIZES).state_dict() if "stitch" in name]


def test_more_choices_than_experts_are_refused():
    with pytest.raises(InputError, match="top_k 5 exceeds experts 4"):
        VMoE(CONFIG.model_copy(update={"top_k": 5}), **SIZES)
