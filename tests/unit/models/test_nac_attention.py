"""Kernel, attention and their cheaper forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2mkd.models.nac.attention import LatentAttention, ReadInAttention
from m2mkd.models.nac.kernel import DotProductKernel, cosine_distance, log_concrete
from m2mkd.models.nac.modulated import ModFC
from m2mkd.models.nac.noise import Noise


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator, std=0.5)
    return module.double()


def test_modulation_scales_the_input_around_one():
    layer = ModFC(6, 4, code_dim=5)
    codes, x = randn(3, 5), randn(2, 3, 6)
    scales = codes @ layer.scale.weight.T
    normed = (scales - scales.mean(-1, keepdim=True)) / (scales.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = (x * (1 + 0.1 * normed)) @ layer.native_weight.T + layer.native_bias
    torch.testing.assert_close(layer(x, codes), expected)


@given(heads=st.integers(1, 3), tokens=st.integers(1, 6), shared_code=st.booleans(), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_read_in_equals_attention_with_keys_of_each_latent(heads, tokens, shared_code, seed):
    dim, width, code_dim, head_dim, latents, batch = 5, 7, 4, 3, 4, 2
    layer = randomised(ReadInAttention(dim, width, code_dim, heads, head_dim), seed)
    states, x = randn(batch, latents, dim, seed=seed).double(), randn(batch, tokens, width, seed=seed + 1).double()
    codes = randn(1 if shared_code else latents, code_dim, seed=seed + 2).double()

    normed = layer.sender_layernorm(x)[:, :, None]  # B, T, 1, C: one copy for each latent
    keys, values = (
        compiler(normed.expand(-1, -1, latents, -1), codes).unflatten(-1, (heads, head_dim))
        for compiler in (layer.key_compiler, layer.value_compiler)
    )
    queries = layer.query_compiler(layer.receiver_layernorm(states), codes).unflatten(-1, (heads, head_dim))
    weights = (torch.einsum("buhd,btuhd->buht", queries, keys) / head_dim**0.5).softmax(-1)
    attended = torch.einsum("buht,btuhd->buhd", weights, values).flatten(2)
    expected = states + layer.layer_scale(layer.exit_layer(attended, codes))
    torch.testing.assert_close(layer(states, x, codes), expected)


def test_cut_keeps_the_boundary_and_has_no_gradient():
    kernel = DotProductKernel(truncation=0.5)
    distance = torch.tensor([[0.0, 0.5, 0.51, 2.0]], requires_grad=True)
    log_kernel = kernel.log(distance)
    assert log_kernel.tolist() == [[0, -0.5, -torch.inf, -torch.inf]]
    log_kernel.exp().sum().backward()
    torch.testing.assert_close(distance.grad, torch.tensor([[-1, -torch.exp(torch.tensor(-0.5)).item(), 0, 0]]))


def test_cut_does_not_turn_around_with_a_negative_bandwidth():
    kernel = DotProductKernel(truncation=0.5)
    kernel.bandwidth.data.fill_(-1)
    assert kernel.log(torch.tensor([0.1, 0.9])).isneginf().tolist() == [False, True]


def test_kernel_samples_in_training_alone():
    kernel = DotProductKernel(truncation=0.9, temperature=0.5)
    distance = cosine_distance(randn(3, 4), randn(5, 4, seed=1))
    noise = Noise.from_generator(torch.Generator().manual_seed(0))
    sampled = kernel(distance, 7, noise)
    assert sampled.shape == (7, 3, 5) and sampled.isfinite().all() and not torch.equal(sampled[0], sampled[1])
    with pytest.raises(ValueError, match="training mode"):
        kernel(distance, 7, None)
    torch.testing.assert_close(kernel.eval()(distance, 7, None), kernel.log(distance)[None])


def test_concrete_samples_follow_their_probability():
    probability = torch.tensor([0.1, 0.5, 0.9])
    uniform = torch.rand(50_000, 3, generator=torch.Generator().manual_seed(0))
    edges = log_concrete(probability.log(), uniform, 0.5).exp()
    torch.testing.assert_close((edges > 0.5).float().mean(0), probability, atol=0.01, rtol=0)


def test_certain_and_cut_edges_have_no_gradient_when_sampled():
    log_probability = torch.tensor([0.0, -torch.inf, -1.0], requires_grad=True)
    log_concrete(log_probability, torch.full((2, 3), 0.3), 0.5).sum().backward()
    assert log_probability.grad[:2].tolist() == [0, 0]
    assert log_probability.grad[2] != 0


@pytest.mark.parametrize("training", [False, True])
def test_receiver_without_an_edge_receives_nothing(training):
    layer = LatentAttention(6, 4, 2, 3, 1.0, DotProductKernel(truncation=0.5), residual=False).train(training)
    receivers, senders = randn(2, 2, 6).requires_grad_(), randn(2, 3, 6, seed=1).requires_grad_()
    codes = randn(1, 4, seed=2)
    distance = torch.tensor([[1.0, 1.0, 1.0], [0.1, 1.0, 0.3]], requires_grad=True)
    out = layer(receivers, senders, codes, codes, distance)
    torch.testing.assert_close(out[:, 0], layer.exit_layer.native_bias.expand(2, -1))
    assert not torch.allclose(out[:, 1], layer.exit_layer.native_bias.expand(2, -1))
    out.square().sum().backward()
    for tensor in (receivers, senders, distance):
        assert tensor.grad.isfinite().all()


def test_sender_behind_a_cut_has_no_influence():
    layer = LatentAttention(6, 4, 2, 3, 1.0, DotProductKernel(truncation=0.5)).eval()
    states, codes = randn(1, 3, 6), randn(1, 4, seed=1)
    distance = torch.tensor([[0.0, 0.4, 0.6], [0.4, 0.0, 0.1], [0.6, 0.1, 0.0]])
    other = states.clone()
    other[:, 2] = randn(6, seed=2)
    before, after = (layer(senders, senders, codes, codes, distance) for senders in (states, other))
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])
