"""Routing of the original V-MoE: queue positions, priorities, limits, auxiliary losses (specification vmoe.md 2)."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from m2mkd.models.moe import MoE
from m2mkd.models.moe_routing import VMoERouter, capacity, imbalance, queue_positions, winning_chances


def logits_of(seed: int, tokens: int, experts: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(tokens, experts, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


sizes = st.tuples(st.integers(1, 40), st.integers(1, 6)).flatmap(
    lambda size: st.tuples(st.just(size[0]), st.just(size[1]), st.integers(1, size[1]), st.integers(1, 40))
)


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "ratio", "expected"),
    [
        (8 * 197, 8, 2, 1.05, 416),  # 413.7, up to 414, up to a multiple of 4
        (8 * 197, 8, 2, 1.5, 592),
        (1, 8, 1, 1.0, 4),
        (16, 4, 1, 1.0, 4),
        (16, 4, 1, 1.01, 8),
    ],
)
def test_capacity(tokens, experts, top_k, ratio, expected):
    assert capacity(tokens, experts, top_k, ratio) == expected


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**16), prioritised=st.booleans())
def test_places_are_those_of_a_queue_that_is_served_one_by_one(size, seed, prioritised):
    tokens, experts, top_k, group = size
    logits = logits_of(seed, tokens, experts)
    chosen = logits.topk(top_k).indices
    priority = logits.max(dim=1).values if prioritised else None
    positions = queue_positions(chosen, experts, group, priority)
    queues: Counter[tuple[int, int]] = Counter()
    order = sorted(range(tokens), key=lambda token: -priority[token].item()) if prioritised else range(tokens)
    for slot in range(top_k):
        for token in order:
            queue = token // group, chosen[token, slot].item()
            assert positions[token, slot] == queues[queue]
            queues[queue] += 1


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**16), batch_priority=..., ratio=st.sampled_from([0.1, 0.5, 1.05]), training=...)
def test_no_expert_gets_more_than_its_capacity(size, seed, batch_priority: bool, ratio, training: bool):
    tokens, experts, top_k, group = size
    logits = logits_of(seed, tokens, experts, 3.0)
    ratios = {"capacity_ratio": ratio, "eval_capacity_ratio": 9.0} if training else {"capacity_ratio": 9.0, "eval_capacity_ratio": ratio}
    chosen, weights = VMoERouter(batch_priority=batch_priority, **ratios).route(logits, top_k, group, training=training)
    wished = logits.topk(top_k).indices
    assert torch.equal(weights == 0, chosen == experts)
    kept = chosen < experts
    assert torch.equal(chosen[kept], wished[kept])
    torch.testing.assert_close(weights[kept], logits.softmax(dim=1).gather(1, wished)[kept])
    for start in range(0, tokens, group):
        part = slice(start, min(start + group, tokens))
        room = capacity(part.stop - part.start, experts, top_k, ratio)
        for expert in range(experts):
            served, asked = (chosen[part] == expert), (wished[part] == expert)
            assert served.sum() == min(room, asked.sum())  # full where more asked, and nobody dropped where there was room
            for slot in range(top_k):
                if asked[:, slot].sum() > served[:, slot].sum():
                    assert served[:, slot + 1 :].sum() == 0  # earlier choices first
            if batch_priority:
                best = logits[part].softmax(dim=1).max(dim=1).values
                for slot in range(top_k):
                    dropped = asked[:, slot] & ~served[:, slot]
                    if dropped.any() and served[:, slot].any():
                        assert best[dropped].max() <= best[served[:, slot]].min()


def test_without_batch_priority_the_first_tokens_are_served():
    logits = torch.tensor([[1.0, 0.0]] * 6 + [[2.0, 0.0]] * 2)
    plain = VMoERouter(capacity_ratio=1.0).route(logits, 1, 8, training=True)[0]
    assert plain.flatten().tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    prior = VMoERouter(capacity_ratio=1.0, batch_priority=True).route(logits, 1, 8, training=True)[0]
    assert prior.flatten().tolist() == [0, 0, 2, 2, 2, 2, 0, 0]


def squared_variation(values: np.ndarray) -> float:
    return (values.std() / values.mean()) ** 2


@settings(max_examples=30, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**16))
def test_auxiliary_losses_against_the_formula(size, seed):
    tokens, experts, top_k, group = size
    logits = logits_of(seed, tokens, experts)
    noisy = logits + logits_of(seed + 1, tokens, experts) / experts
    clean, disturbed = logits.numpy(), noisy.numpy()
    importance, load = [], []
    for start in range(0, tokens, group):
        part = slice(start, start + group)
        gates = np.exp(clean[part]) / np.exp(clean[part]).sum(axis=1, keepdims=True)
        importance.append(squared_variation(gates.sum(axis=0)))
        threshold = np.sort(disturbed[part], axis=1)[:, -top_k][:, None]
        load.append(squared_variation(norm.sf((threshold - clean[part]) * experts).mean(axis=0)))
    router = VMoERouter(importance_weight=0.3, load_weight=0.7)
    expected = 0.3 * np.mean(importance) + 0.7 * np.mean(load)
    assert router.auxiliary_loss(logits, noisy, top_k, group).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    disabled_noise = VMoERouter(noise=0.0, importance_weight=0.3, load_weight=0.7)
    assert disabled_noise.auxiliary_loss(logits, logits, top_k, group).item() == pytest.approx(
        0.3 * np.mean(importance), rel=1e-9, abs=1e-12
    )


def test_gradients_of_the_losses_by_finite_differences():
    logits = logits_of(0, 10, 4).requires_grad_()
    noise = logits_of(1, 10, 4) / 4
    assert torch.autograd.gradcheck(lambda logits: VMoERouter().auxiliary_loss(logits, logits + noise, 2, 4), logits)


def test_balanced_experts_cost_nothing():
    assert imbalance(torch.eye(4).repeat(3, 1), 4).item() == 0
    assert imbalance(torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 4), 4).item() == pytest.approx(3)  # E - 1 when all is at one expert


def test_the_last_winner_wins_every_second_time():
    chances = winning_chances(torch.tensor([[3.0, 1.0, -20.0]]), torch.tensor([[3.0, 1.0, -20.0]]), 2, 0.5)
    assert chances[0].tolist() == pytest.approx([norm.cdf(4), 0.5, 0])


# In the layer


def layer(**settings) -> MoE:
    torch.manual_seed(0)
    return MoE(6, 12, experts=4, top_k=2, router=VMoERouter(**settings))


def test_the_gate_has_no_bias():
    assert layer().gate.bias is None
    assert MoE(6, 12, experts=4, top_k=2).gate.bias is not None


def test_noise_changes_training_only():
    moe, x = layer(capacity_ratio=9.0, eval_capacity_ratio=9.0, noise=4.0), torch.randn(3, 5, 6)
    moe.noise = torch.zeros(3, 5, 4)
    disabled_noise = moe(x)
    moe.noise = torch.randn(3, 5, 4)
    assert not torch.equal(moe(x), disabled_noise)
    moe.eval()
    assert not moe.draws_noise
    torch.testing.assert_close(moe(x), disabled_noise)
    moe.train().noise = None
    with pytest.raises(ValueError, match="noise=GENERATOR"):
        moe(x)
    assert torch.isfinite(layer(noise=0.0)(x)).all()


def test_the_loss_sees_the_logits_before_and_after_the_noise():
    moe, x = layer(), torch.randn(3, 5, 6)
    moe.noise = torch.randn(3, 5, 4)
    moe(x)
    logits = moe.gate(x).flatten(end_dim=1)
    expected = VMoERouter().auxiliary_loss(logits, logits + moe.noise.flatten(end_dim=1) / 4, 2, 8 * 5)
    loss = moe.take_auxiliary_loss()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert moe.gate.weight.grad.abs().sum() > 0
    assert moe.take_auxiliary_loss() == 0
    moe.eval()(x)
    assert moe.take_auxiliary_loss() == 0


@pytest.mark.parametrize("training", [True, False])
def test_tokens_without_room_skip_the_experts(training):
    moe, x = layer(capacity_ratio=0.01, eval_capacity_ratio=0.01, noise=0.0, group_size=1).train(training), torch.randn(2, 40, 6)
    output = moe(x)
    chosen, weights = moe.route(x)
    served = (chosen < 4).any(dim=1)
    assert moe.tokens_per_expert.tolist() == [(chosen == expert).sum().item() for expert in range(4)]
    assert moe.tokens_per_expert.max() <= 2 * 4  # two groups with four places each
    assert moe.dropped_share.item() == pytest.approx((chosen == 4).double().mean().item())
    assert 0 < served.sum() < 80
    assert output.flatten(end_dim=1)[~served].count_nonzero() == 0
    assert (weights.sum(dim=1) < 1).all()


def test_groups_are_of_images():
    moe, x = layer(capacity_ratio=0.3, eval_capacity_ratio=0.3, group_size=2).eval(), torch.randn(5, 12, 6)
    together = moe(x)
    torch.testing.assert_close(together, torch.cat([moe(part) for part in x.split(2)]))
    assert not torch.allclose(together, torch.cat([moe(part) for part in x.split(1)]))


@pytest.mark.parametrize("router", [None, VMoERouter(noise=0.0)])
def test_entropy_of_the_router(router):
    moe = MoE(6, 12, experts=4, top_k=2, router=router)
    x = torch.randn(2, 5, 6)
    moe(x)
    gates = moe.gate(x).softmax(dim=-1)
    assert moe.router_entropy.item() == pytest.approx((-gates * gates.log()).sum(dim=-1).mean().item(), rel=1e-5)
    torch.nn.init.zeros_(moe.gate.weight)
    if moe.gate.bias is not None:
        torch.nn.init.zeros_(moe.gate.bias)
    moe(x)
    assert moe.router_entropy.item() == pytest.approx(math.log(4), rel=1e-6)
    assert moe.dropped_share.item() == 0 if router is None else moe.dropped_share.item() > 0
