"""The experts' products: both paths against a masked loop, their gradients, and what they promise about bits."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2mkd.models.moe_dispatch import grouped_products_pay, mix_experts, sort_by_expert

D, HIDDEN = 8, 16


def experts(number: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (number, HIDDEN, D), (number, HIDDEN), (number, D, HIDDEN), (number, D)
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]


def mix(tokens: Tensor, chosen: Tensor, weights: Tensor, parameters: list[Tensor], grouped: bool | None = None) -> Tensor:
    w1, b1, w2, b2 = parameters
    return mix_experts(tokens, chosen, weights, (w1, b1), (w2, b2), grouped=grouped)[0]


def masked_loop(tokens: Tensor, chosen: Tensor, weights: Tensor, parameters: list[Tensor]) -> Tensor:
    """The definition: every expert on every token, times the token's weight for it."""
    total = torch.zeros_like(tokens)
    for expert, (w1, b1, w2, b2) in enumerate(zip(*parameters, strict=True)):
        weight = (weights * (chosen == expert)).sum(dim=1, keepdim=True)
        total = total + weight * F.linear(F.gelu(F.linear(tokens, w1, b1)), w2, b2)
    return total


@st.composite
def routings(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Any routing: random, all tokens at the same experts, none at some, and dropped pairs (number E)."""
    number = draw(st.integers(1, 5))
    top_k = draw(st.integers(1, number))
    used = draw(st.lists(st.integers(0, number), min_size=top_k, max_size=number + 1, unique=True))
    rows = draw(st.lists(st.permutations(used), min_size=1, max_size=9))
    chosen = torch.tensor([row[:top_k] for row in rows])
    assume((chosen < number).any())
    return chosen, number


def outcome(function, tokens: Tensor, chosen: Tensor, weights: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Output, and the gradients of a weighted sum of it for tokens, weights and parameters."""
    inputs = [tokens.clone().requires_grad_(), weights.clone().requires_grad_(), *parameters]
    output = function(inputs[0], chosen, inputs[1].masked_fill(chosen == len(parameters[0]), 0), parameters)
    probe = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view_as(output)
    return [output, *torch.autograd.grad((output * probe).sum(), inputs)]


@pytest.mark.parametrize(("grouped", "dtype", "tolerance"), [(False, torch.float64, 1e-11), (True, torch.float32, 2e-4)])
@settings(max_examples=60, deadline=None)
@given(routing=routings(), seed=st.integers(0, 2**16))
def test_any_routing_equals_the_masked_loop(grouped, dtype, tolerance, routing, seed):
    chosen, number = routing
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(chosen), D, dtype=dtype, generator=generator)
    weights = torch.rand(chosen.shape, dtype=dtype, generator=generator)
    parameters = experts(number, seed, dtype)
    ours = outcome(partial(mix, grouped=grouped), tokens, chosen, weights, parameters)
    theirs = outcome(masked_loop, tokens, chosen, weights, parameters)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)
    if not grouped:
        counts = mix_experts(tokens, chosen, weights, tuple(parameters[:2]), tuple(parameters[2:]))[1]
        assert counts.tolist() == [(chosen == expert).sum().item() for expert in range(number)]


@given(routing=routings(), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_the_order_of_tokens_does_not_matter(routing, seed):
    chosen, number = routing
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(chosen), D, dtype=torch.float64, generator=generator)
    weights = torch.rand(chosen.shape, dtype=torch.float64, generator=generator).masked_fill(chosen == number, 0)
    order = torch.randperm(len(chosen), generator=generator)
    parameters = experts(number, seed)
    shuffled = mix(tokens[order], chosen[order], weights[order], parameters)
    torch.testing.assert_close(shuffled, mix(tokens, chosen, weights, parameters)[order], rtol=1e-11, atol=1e-11)


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.tensor([[0, 2], [2, 4], [0, 4], [2, 0], [4, 4]])  # expert 1 and 3 idle, some pairs dropped
    tokens = torch.randn(5, D, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.rand(5, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    parameters = [(parameter.detach() / 2).requires_grad_() for parameter in experts(4, 1)]

    def function(tokens: Tensor, weights: Tensor, *parameters: Tensor) -> Tensor:
        return mix(tokens, chosen, weights.masked_fill(chosen == 4, 0), list(parameters))

    assert torch.autograd.gradcheck(function, (tokens, weights, *parameters))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_and_contiguous_products_agree(dtype):
    """The same function on either path; in bfloat16 as exactly as its 8 bits allow."""
    generator = torch.Generator().manual_seed(3)
    chosen = torch.rand(64, 5, generator=generator).argsort(dim=1)[:, :2]  # of four experts and the dropped
    tokens = torch.randn(64, D, generator=generator).to(dtype)
    weights = torch.rand(64, 2, generator=generator).to(dtype)
    parameters = [(parameter.detach() / 4).to(dtype).requires_grad_() for parameter in experts(4, 1, torch.float32)]
    results = [outcome(partial(mix, grouped=grouped), tokens, chosen, weights, parameters) for grouped in (False, True)]
    for left, right in zip(*results, strict=True):
        scale = left.abs().max().item()
        assert (left - right).abs().max().item() <= (2e-6 if dtype == torch.float32 else 2e-2) * scale


def test_idle_experts_get_zero_gradients_on_either_path():
    for grouped in (False, True):
        parameters = experts(4, 0, torch.float32)
        chosen, weights = torch.tensor([[1, 4], [2, 1], [1, 4]]), torch.tensor([[0.5, 0], [1, 1], [0.5, 0]])
        mix(torch.ones(3, D), chosen, weights, parameters, grouped).sum().backward()
        for parameter in parameters:
            assert parameter.grad[[0, 3]].count_nonzero() == 0
            assert parameter.grad[[1, 2]].abs().sum() > 0


def test_rows_are_sorted_by_expert_and_then_by_token():
    dispatch = sort_by_expert(torch.tensor([[2, 0], [0, 3], [2, 0]]), 3, grouped=False)
    assert dispatch.bounds == (0, 3, 3, 5)
    assert dispatch.tokens.tolist() == [0, 1, 2, 0, 2]
    assert dispatch.tokens_per_expert.tolist() == [3, 0, 2]
    assert dispatch.rows[dispatch.positions[dispatch.kept]].tolist() == [0, 1, 2, 4, 5]


def test_grouped_products_are_for_bfloat16_on_hopper():
    assert not grouped_products_pay(torch.ones(2, 8, dtype=torch.bfloat16), 8)  # on a CPU


@pytest.mark.parametrize("grouped", [False, True])
def test_autocast_chooses_the_dtype_of_the_products(grouped):
    parameters = experts(2, 0, torch.float32)
    tokens = torch.randn(4, D, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = mix(tokens, torch.tensor([[0, 1]] * 4), torch.full((4, 2), 0.5), parameters, grouped)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert {tensor.grad.dtype for tensor in (tokens, *parameters)} == {torch.float32}
    exact = mix(tokens, torch.tensor([[0, 1]] * 4), torch.full((4, 2), 0.5), parameters, grouped)
    assert (output - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0), reason="no GPU with a grouped product")
def test_grouped_products_on_a_gpu():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(256, 5, generator=generator).argsort(dim=1)[:, :2]
    tokens, weights = torch.randn(256, D, generator=generator), torch.rand(256, 2, generator=generator)
    parameters = [(parameter.detach() / 4).requires_grad_() for parameter in experts(4, 1, torch.float32)]
    half = [parameter.detach().bfloat16().cuda().requires_grad_() for parameter in parameters]
    assert grouped_products_pay(tokens.bfloat16().cuda(), HIDDEN)
    ours = outcome(mix, tokens.bfloat16().cuda(), chosen.cuda(), weights.bfloat16().cuda(), half)
    theirs = outcome(masked_loop, tokens, chosen, weights, parameters)
    for left, right in zip(ours, theirs, strict=True):
        assert (left.float().cpu() - right).abs().max() <= 0.03 * right.abs().max()
