"""Explicit noise: reproducible, replayable, with the distributions that the layers expect."""

import pytest
import torch

from m2mkd.models.nac.noise import Noise, drop_path, perturb_codes, required


def noise(seed=0):
    return Noise.from_generator(torch.Generator().manual_seed(seed))


def test_draws_depend_on_the_generator_alone():
    like = torch.empty(0)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (noise(seed).draw("state", (4, 3), like) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "mean", "deviation"),
    [("state", 0, 1), ("code", 0.5, 12**-0.5), ("edge", 0.5, 12**-0.5), ("drop_path", 0.5, 12**-0.5), ("gumbel", 0.5772, 1.2825)],
)
def test_distributions(kind, mean, deviation):
    drawn = noise().draw(kind, (200_000,), torch.empty(0))
    assert drawn.mean().item() == pytest.approx(mean, abs=0.02)
    assert drawn.std().item() == pytest.approx(deviation, abs=0.02)


def test_draws_take_the_dtype_of_the_tensor_they_are_for():
    assert noise().draw("code", (2,), torch.empty(0, dtype=torch.float64)).dtype == torch.float64


def test_replay_refuses_another_kind_or_shape():
    record = Noise.replay([("code", torch.ones(2)), ("code", torch.ones(2)), ("code", torch.ones(2))])
    assert torch.equal(record.draw("code", (2,), torch.empty(0)), torch.ones(2))
    with pytest.raises(ValueError, match="draws state"):
        record.draw("state", (2,), torch.empty(0))
    with pytest.raises(ValueError, match=r"draws code \(3,\)"):
        record.draw("code", (3,), torch.empty(0))
    with pytest.raises(ValueError, match="holds nothing"):
        record.draw("code", (2,), torch.empty(0))


def test_absent_noise_is_refused_where_it_is_required():
    with pytest.raises(ValueError, match=r"Noise\.from_generator"):
        required(None)


def test_code_noise_is_bounded_by_the_code_and_has_no_gradient():
    codes = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    perturbed = perturb_codes(codes, 0.05, noise())
    relative = ((perturbed - codes) / codes.abs()).detach()
    assert relative.abs().max() <= 0.05 + 1e-6
    assert relative.min() < -0.045 and relative.max() > 0.045
    perturbed.sum().backward()
    assert torch.equal(codes.grad, torch.ones_like(codes))


@pytest.mark.parametrize("skip", [True, False])
def test_drop_path_drops_samples_whole_and_keeps_the_mean(skip):
    ones = torch.ones(20_000, 2, 3)
    branch = drop_path(torch.zeros_like(ones), 0.1, noise(), lambda select: select(ones), skip=skip)
    assert torch.all(branch == branch[:, :1, :1])
    torch.testing.assert_close(branch[:, 0, 0].unique(), torch.tensor([0, 1 / 0.9]))
    assert branch.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_branches_that_are_not_computed_have_the_value_and_gradient_of_dropped_ones(rate):
    results = []
    for skip in (True, False):
        states = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        layer = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.constant_(layer.weight, 0.5)
        out = drop_path(states, rate, noise(), lambda select, states=states, layer=layer: layer(select(states)).sin(), skip=skip)
        out.square().sum().backward()
        results.append((out, states.grad, layer.weight.grad))
    for computed, masked in zip(*results, strict=True):
        torch.testing.assert_close(computed, masked)
