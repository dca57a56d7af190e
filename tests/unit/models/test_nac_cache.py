"""Cached values of parameters: used where nothing changed, and nowhere else."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from m2mkd.models.nac.cache import Cache
from m2mkd.models.nac.modulated import ModFC
from tests.unit.models.small_nac import IMAGES, circuit, noise


class Counted(nn.Module):
    """Square of a parameter, with a count of the computations."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.cache = Cache()
        self.computed = 0

    def forward(self):
        def compute():
            self.computed += 1
            return self.weight * self.weight

        return self.cache(compute, self.weight)


@pytest.fixture
def counted():
    module = Counted()
    with torch.no_grad():
        module()
        module()
    assert module.computed == 1
    return module


def step(module, **options):
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, **options)
    module.weight.grad = torch.ones(3)
    optimizer.step()


def assign(module):
    module.weight.data = torch.full((3,), 2.0)


def reuse_the_address(module):
    """The storage that was cached is freed, and its address taken by other values."""
    address = module.weight.data_ptr()
    for value in range(2, 40):
        module.weight.data = torch.full((3,), float(value))
        if module.weight.data_ptr() == address:
            break


CHANGES = {
    "optimiser": step,
    "fused optimiser": lambda module: step(module, fused=True),
    "foreach optimiser": lambda module: step(module, foreach=True),
    "load_state_dict": lambda module: module.load_state_dict({"weight": torch.full((3,), 2.0)}),
    "load_state_dict, assigned": lambda module: module.load_state_dict({"weight": torch.full((3,), 2.0)}, assign=True),
    "in place": lambda module: torch.no_grad()(module.weight.mul_)(3),
    "a view in place": lambda module: torch.no_grad()(module.weight[0].fill_)(3),
    "dtype": lambda module: module.double(),
    "dtype and back": lambda module: module.bfloat16().float(),
    "another parameter": lambda module: setattr(module, "weight", nn.Parameter(torch.full((3,), 5.0))),
    "data": assign,
    "data at the old address": reuse_the_address,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_parameter_is_computed_anew(counted, change):
    CHANGES[change](counted)
    with torch.no_grad():
        value = counted()
    assert counted.computed == 2
    assert value.dtype == counted.weight.dtype and torch.equal(value, counted.weight.detach().square())


def test_gradients_are_never_cached_and_drop_what_is(counted):
    counted().sum().backward()
    assert torch.equal(counted.weight.grad, torch.full((3,), 2.0))
    counted.weight.data.fill_(4)  # unseen by the version counter, but training lies between
    with torch.no_grad():
        assert torch.equal(counted(), torch.full((3,), 16.0))


def test_precision_of_autocast_is_told_apart():
    layer, codes, x = ModFC(4, 2, 3), torch.randn(5, 3), torch.randn(1, 5, 4)
    with torch.no_grad():
        plain = layer(x, codes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = layer.modulation(codes)
            assert torch.equal(cast, layer.modulation(codes))
        torch.testing.assert_close(layer(x, codes), plain, rtol=0, atol=0)
        assert not torch.equal(layer.modulation(codes), cast)


def test_inference_mode_leaves_nothing_that_others_cannot_use():
    counted = Counted()
    with torch.inference_mode():
        counted()
        counted()
    assert counted.computed == 1
    frozen = Counted().requires_grad_(False)
    with torch.inference_mode():
        frozen()
    (frozen() * torch.ones(3, requires_grad=True)).sum().backward()


def test_temporary_sources_are_told_apart():
    layer = ModFC(4, 2, 3)
    with torch.no_grad():
        for value in range(5):
            codes = torch.tensor([[1.0, value, 0.0]])  # may take the address of the last one
            scales = layer.scale(codes)
            expected = 1 + 0.1 * nn.functional.layer_norm(scales, (4,))
            torch.testing.assert_close(layer.modulation(codes), expected)
            del codes


def test_a_copy_is_empty_and_independent(counted):
    twin = copy.deepcopy(counted)
    buffer = io.BytesIO()
    torch.save(counted, buffer)
    buffer.seek(0)
    for copied in (twin, torch.load(buffer, weights_only=False)):
        with torch.no_grad():
            copied.weight.mul_(2)
            assert torch.equal(copied(), torch.full((3,), 4.0))
            assert torch.equal(counted(), torch.ones(3))
    assert counted.computed == 1


@torch.no_grad()
def test_transforms_of_functions_leave_nothing_behind(counted):
    """Ensembles by vmap and derivatives, also where no other gradient is asked for."""
    counted.cache = Cache()
    value, tangent = torch.func.jvp(lambda x: counted() * x, (torch.ones(3),), (torch.full((3,), 5.0),))
    assert torch.equal(value, torch.ones(3)) and torch.equal(tangent, torch.full((3,), 5.0))
    assert torch.equal(counted(), torch.ones(3))
    ensemble = {"weight": torch.tensor([[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])}
    squares = torch.func.vmap(lambda weights: torch.func.functional_call(counted, weights, ()))(ensemble)
    assert torch.equal(squares, ensemble["weight"].square())
    assert torch.equal(torch.func.grad(lambda x: (counted() * x).sum())(torch.ones(3)), torch.ones(3))
    assert torch.equal(counted(), torch.ones(3))


def test_fake_tensors_are_not_kept(counted):
    from torch._subclasses.fake_tensor import FakeTensorMode

    fresh = Counted()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fresh()
    with torch.no_grad():
        assert torch.equal(fresh(), torch.ones(3))


def test_the_circuit_caches_everything_that_its_parameters_fix():
    """A second evaluation computes no modulation, kernel or seeder again."""
    nac = circuit().eval()
    computed = []
    for module in nac.modules():
        if isinstance(module, ModFC):
            module.scale.register_forward_hook(lambda *_: computed.append("modulation"))
    nac.latent_seeder.layernorm.register_forward_hook(lambda *_: computed.append("seeder"))
    with torch.no_grad():
        nac(IMAGES)
        modulations = sum(isinstance(module, ModFC) for module in nac.modules())
        assert sorted(computed) == ["modulation"] * modulations + ["seeder"] * 3
        nac(IMAGES)
    assert len(computed) == modulations + 3


@given(
    optimiser=st.sampled_from([torch.optim.SGD, torch.optim.AdamW]),
    variant=st.sampled_from(["plain", "foreach", "fused"]),
    between=st.sampled_from(["nothing", "evaluation with gradients", "inference mode"]),
    seed=st.integers(0, 20),
)
@settings(max_examples=10, deadline=None)
def test_cached_evaluation_equals_uncached_after_an_optimiser_step(optimiser, variant, between, seed):
    nac = circuit(seed=seed)
    with torch.no_grad():
        nac.mediator_latents.signatures.normal_(generator=torch.Generator().manual_seed(seed))
        before = nac.eval()(IMAGES)
    nac.train()
    steps = optimiser(nac.parameters(), lr=0.05, foreach=variant == "foreach", fused=variant == "fused")
    nac(IMAGES, noise(seed)).square().sum().backward()
    with torch.no_grad():
        nac.eval()(IMAGES)  # fills the caches right before the step
    steps.step()
    if between == "evaluation with gradients":
        nac(IMAGES)
    elif between == "inference mode":
        with torch.inference_mode():
            nac(IMAGES)
    with torch.no_grad():
        cached = nac(IMAGES)
        uncached = copy.deepcopy(nac)(IMAGES)
    assert torch.equal(cached, uncached)
    assert not torch.allclose(cached, before)
