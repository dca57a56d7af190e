"""Regularisers of the signatures: recordings of the released ones, memory, and what kernels may share."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from m2mkd.models.nac import regularisers
from m2mkd.models.nac.kernel import DotProductKernel, cosine_distance
from m2mkd.models.nac.regularisers import block_model, block_model_loss, block_model_losses, signature_repulsion

GROUPS = ("input", "mediator", "output")


@pytest.fixture(params=["nac_small_ba", "nac_small_planted"])
def recorded(request, fixtures_dir):
    """What the released regularisers gave, and the tensors of the model that they were computed on."""
    folder = fixtures_dir / "nac"
    return load_file(folder / f"{request.param}.regularisers.safetensors"), load_file(folder / f"{request.param}.state_dict.safetensors")


def signatures_of(state):
    return {name: state[f"latent_graphs.0.{name}_latents.signatures_"].requires_grad_() for name in GROUPS}


def kernels_of(state):
    for index in range(2):
        kernel = DotProductKernel(0.9, 0.5)
        kernel.bandwidth.data = state[f"latent_graphs.0.propagators.{index}.latent_attention.kernel.bandwidth"]
        yield kernel


@pytest.mark.parametrize("hinge", [0.4, 0.9])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_repulsion_replays(recorded, hinge, reduction):
    values, state = recorded
    groups = signatures_of(state)
    loss = signature_repulsion(torch.cat(list(groups.values())), hinge, reduction)
    expected = values[f"hinge.{hinge}.{reduction}.value"]
    if expected.isnan():  # no pair is close; there the released mean divides by zero
        assert loss == 0
        return
    torch.testing.assert_close(loss, expected, atol=2e-5, rtol=0)
    for name, gradient in zip(groups, torch.autograd.grad(loss, groups.values()), strict=True):
        wanted = values[f"hinge.{hinge}.{reduction}.grad.{name}_signatures"]
        torch.testing.assert_close(gradient, wanted, atol=2e-4 * max(wanted.abs().max().item(), 1e-6), rtol=0)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_block_model_replays(recorded, clip):
    values, state = recorded
    signatures = signatures_of(state)["mediator"]
    distance = cosine_distance(signatures, signatures)
    links = [kernel.log(distance).exp() for kernel in kernels_of(state)]
    loss = block_model_losses(links, block_model(16, 4, 0.9, 0.2), "rows", clip)
    torch.testing.assert_close(loss, values[f"sbm.clip_{clip}.value"], atol=2e-5, rtol=0)
    expected = values[f"sbm.clip_{clip}.grad.mediator_signatures"]
    (gradient,) = torch.autograd.grad(loss, signatures)
    torch.testing.assert_close(gradient, expected, atol=2e-4 * expected.abs().max().item(), rtol=0)


def links_at(bandwidths, nodes=24):
    signatures = torch.randn(nodes, 8, generator=torch.Generator().manual_seed(0))
    distance = cosine_distance(signatures, signatures)
    return [(-distance / bandwidth).exp().masked_fill(distance > 0.9, 0) for bandwidth in bandwidths]


@pytest.mark.parametrize("permutation", ["rows", "graph"])
@pytest.mark.parametrize(("bandwidths", "matchings"), [((1.0, 1.0, 1.0), 1), ((1.0, 0.9, 1.0, 0.9), 2), ((1.0, 0.9, 1.1), 3)])
def test_kernels_of_one_bandwidth_share_their_matching_and_change_nothing_by_it(monkeypatch, permutation, bandwidths, matchings):
    calls, match = [], regularisers._match
    monkeypatch.setattr(regularisers, "_match", lambda *arguments: calls.append(1) or match(*arguments))
    betas = [torch.tensor(value, requires_grad=True) for value in bandwidths]
    target = block_model(24, 3, 0.9, 0.2)
    together = block_model_losses(links_at(betas), target, permutation, clip=0.01)
    assert len(calls) == matchings
    apart = sum(block_model_loss(links, target, permutation, clip=0.01) for links in links_at(betas))
    torch.testing.assert_close(together, apart)
    for one, other in zip(torch.autograd.grad(together, betas), torch.autograd.grad(apart, betas), strict=True):
        torch.testing.assert_close(one, other)


def test_the_order_of_rows_depends_on_the_bandwidth():
    """Why kernels of different bandwidths cannot share a matching."""
    target = block_model(24, 3, 0.9, 0.2)
    narrow, wide = (regularisers._match(links, target, "rows") for links in links_at((0.1, 2.0)))
    group = torch.arange(24) // 8
    assert (group[narrow.argsort()] != group[wide.argsort()]).any()  # whatever the order within a group, which is of no effect


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))])
        return result


@pytest.mark.parametrize("permutation", ["rows", "graph"])
def test_block_model_needs_memory_for_pairs_but_not_for_triples(permutation):
    nodes = 48
    target = block_model(nodes, 4, 0.9, 0.2)
    signatures = torch.randn(nodes, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with _Largest() as largest:
        distance = cosine_distance(signatures, signatures)
        block_model_losses([(-distance).exp(), (-distance / 2).exp()], target, permutation).backward()
    assert largest.elements == nodes**2


def test_clipped_differences_count_as_the_constant_and_have_no_gradient():
    target = block_model(8, 2, 0.9, 0.2)
    links = target.clone()
    links[0, 5] += 0.5
    links.requires_grad_()
    loss = block_model_loss(links, target, "rows", clip=0.04)
    assert loss.item() == pytest.approx((63 * 0.04 + 0.25) / 64)
    loss.backward()
    assert links.grad[0, 5].item() == pytest.approx(2 * 0.5 / 64) and links.grad.count_nonzero() == 1


def test_mean_repulsion_is_the_sum_over_the_number_of_close_pairs():
    angles = torch.tensor([0.0, 0.3, 0.5, 2.0])
    signatures = torch.stack([angles.cos(), angles.sin()], dim=1)
    pairs = [1 - math.cos(0.3), 1 - math.cos(0.2), 1 - math.cos(0.5)]
    assert signature_repulsion(signatures, 0.4, "mean").item() == pytest.approx(-sum(pairs) / 3, abs=1e-6)
    assert signature_repulsion(signatures[[0, 3]], 0.4, "mean") == 0
