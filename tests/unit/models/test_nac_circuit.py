"""The circuit as a whole: what it depends on and what it does not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from m2mkd.config.models import TokenizerConfig
from m2mkd.errors import InputError
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.noise import Noise
from tests.unit.models.small_nac import CONFIG, IMAGES, MEDIATORS, circuit, noise


def test_evaluation_without_noise_repeats_itself():
    nac = circuit().eval()
    assert torch.equal(nac(IMAGES), nac(IMAGES))


def test_evaluation_with_noise_draws_as_released():
    nac = circuit().eval()
    logits = [nac(IMAGES, noise(seed)) for seed in (0, 0, 1)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert not torch.allclose(logits[0], nac(IMAGES))


def test_evaluation_as_released_refuses_to_go_without_noise():
    nac = circuit(eval_noise="upstream").eval()
    with pytest.raises(ValueError, match=r"Noise\.from_generator"):
        nac(IMAGES)
    assert nac(IMAGES, noise()).shape == (2, 5)


def test_training_depends_on_the_generator_alone():
    nac = circuit()
    before = torch.random.get_rng_state()
    logits = [nac(IMAGES, noise(seed)) for seed in (0, 0, 1)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_without_noise_is_refused():
    with pytest.raises(ValueError, match=r"Noise\.from_generator"):
        circuit()(IMAGES)


def test_every_parameter_but_the_shift_of_the_confidence_learns():
    nac = circuit()
    with torch.no_grad():
        nac.mediator_latents.signatures.normal_(generator=torch.Generator().manual_seed(0))
    (nac(IMAGES, noise()).square().sum() + nac.regularisation()).backward()
    idle = {name for name, parameter in nac.named_parameters() if parameter.grad is None or not parameter.grad.abs().max() > 0}
    assert idle <= {"output_tokenizer.confidence_scorer.bias"}


@given(st.permutations(range(MEDIATORS)))
@settings(max_examples=10, deadline=None)
def test_order_of_the_mediators_does_not_matter(order):
    """Mediators that change places with their codes and signatures, and so their seeded states, take their final states along."""
    nac, permuted = circuit("planted_partition").eval(), circuit("planted_partition").eval()
    with torch.no_grad():
        for name in ("codes", "signatures"):
            latents = getattr(permuted.mediator_latents, name)
            latents.copy_(latents[list(order)].clone())
    finals = []
    for model in (nac, permuted):
        model.propagators[-1].register_forward_hook(lambda _, __, output: finals.append(output))
    logits = nac(IMAGES), permuted(IMAGES)
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(finals[1], finals[0][:, list(order)], atol=1e-5, rtol=0)


def test_prior_sets_the_mediators_signatures_alone():
    free, fitted, other = circuit(None), circuit("scale_free"), circuit("scale_free", graph_seed=1)
    assert not torch.equal(fitted.mediator_latents.signatures, other.mediator_latents.signatures)
    assert torch.equal(fitted.mediator_latents.signatures, circuit("scale_free").mediator_latents.signatures)
    assert {name for name, _ in free.named_parameters()} == {name for name, _ in fitted.named_parameters()}
    assert not torch.equal(circuit("scale_free", graph_fit_cut=0.5).mediator_latents.signatures, fitted.mediator_latents.signatures)


def test_layer_scale_of_the_read_in():
    assert torch.all(circuit().read_in.ffn.layer_scale.gamma == CONFIG.layer_scale)
    nac = circuit(readin_ffn_layer_scale=1e-6)
    assert torch.all(nac.read_in.ffn.layer_scale.gamma == 1e-6)
    assert torch.all(nac.propagators[0].ffn.layer_scale.gamma == CONFIG.layer_scale)


def test_regularisation_follows_the_prior():
    repelled, planted = circuit("ring_of_cliques"), circuit("planted_partition")
    with torch.no_grad():
        for nac in (repelled, planted):
            nac.mediator_latents.signatures[1] = nac.mediator_latents.signatures[0] + 0.01
    loss = repelled.regularisation()
    assert loss < 0
    loss.backward()
    assert repelled.mediator_latents.signatures.grad[:2].abs().max() > 0
    assert planted.regularisation("rows") > 0
    planted.regularisation("graph").backward()
    bandwidths = [propagator.latent_attention.kernel.bandwidth.grad for propagator in planted.propagators]
    assert all(gradient != 0 for gradient in bandwidths)
    assert planted.output_latents.signatures.grad is None


def test_stages_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="image size 18 is not a multiple of the tokenizer's total stride 4"):
        NAC(CONFIG, image_size=18, num_classes=5, prior=None)
    deep = CONFIG.model_copy(update={"tokenizer": TokenizerConfig(depths=(1, 1, 1, 1))})
    with pytest.raises(InputError, match="4 stages"):
        NAC(deep, image_size=32, num_classes=5, prior=None)


class Recorded(Noise):
    """Noise that keeps what it draws."""

    def __init__(self):
        self.source, self.record = noise(), []

    def draw(self, kind, shape, like):
        self.record.append((kind, self.source.draw(kind, shape, like)))
        return self.record[-1][1]


@pytest.mark.parametrize("training", [False, True])
@given(order=st.permutations(range(MEDIATORS)))
@settings(max_examples=5, deadline=None)
def test_mediators_change_places_with_their_codes_signatures_states_and_edges(training, order):
    """With the noise of each mediator moved along, the logits and gradients are the same, and the states change places."""
    inputs, order = CONFIG.latents.input, torch.tensor(order)
    senders = torch.cat([torch.arange(inputs), inputs + order])
    nac, permuted = circuit(None).train(training), circuit(None).train(training)
    with torch.no_grad():
        for name in ("codes", "signatures"):
            getattr(permuted.mediator_latents, name).copy_(getattr(nac.mediator_latents, name)[order])
    drawn, finals = Recorded(), []
    for model in (nac, permuted):
        model.propagators[-1].register_forward_hook(lambda _, __, output: finals.append(output))
    logits = nac(IMAGES, drawn)

    def moved(kind, tensor):
        if kind == "edge":
            return tensor[:, order][:, :, senders]
        axis = {"state": 1, "code": 0}.get(kind)
        places = axis is not None and {MEDIATORS: order, len(senders): senders}.get(tensor.shape[axis])
        return tensor.index_select(axis, places) if torch.is_tensor(places) else tensor

    again = permuted(IMAGES, Noise.replay([(kind, moved(kind, tensor)) for kind, tensor in drawn.record]))
    torch.testing.assert_close(again, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(finals[1], finals[0][:, order], atol=1e-5, rtol=1e-5)
    for value in (logits, again):
        value.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in nac.named_parameters()}
    for name, parameter in permuted.named_parameters():
        expected = gradients[name][order] if name.startswith("mediator_latents") else gradients[name]
        torch.testing.assert_close(parameter.grad, expected, atol=1e-4 * max(1.0, expected.abs().max().item()), rtol=0)


def test_branches_that_all_samples_drop_leave_gradients_of_zero():
    """Not absent ones, which an optimiser would treat otherwise: no decay, no step of its moments."""
    nac = circuit()
    for propagator in nac.propagators:
        propagator.latent_attention.drop_path = propagator.ffn.drop_path = 1 - 1e-6
    nac(IMAGES, noise()).square().sum().backward()
    for parameter in nac.propagators.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    assert nac.read_in.ffn.layernorm.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("converted", [False, True], ids=["autocast", "converted"])
def test_half_precision_cuts_exactly_the_edges_of_float32(dtype, converted):
    nac = circuit(None).eval()
    seen = []
    for propagator in nac.propagators:
        propagator.latent_attention.kernel.register_forward_hook(lambda _, args, bias: seen.append((args[0], bias.isneginf())))
    with torch.no_grad():
        for group in (nac.input_latents, nac.mediator_latents):
            group.signatures.copy_(group.signatures.to(dtype))  # what the conversion of the weights would lose anyway
        plain = nac(IMAGES)
        if converted:
            logits = nac.to(dtype)(IMAGES.to(dtype))
        else:
            with torch.autocast("cpu", dtype=dtype):
                logits = nac(IMAGES)
    assert len(seen) == 2 * CONFIG.iterations and seen[0][1].any() and not seen[0][1].all()
    for before, after in zip(seen[: CONFIG.iterations], seen[CONFIG.iterations :], strict=True):
        assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    torch.testing.assert_close(logits.float(), plain, atol=0.1, rtol=0.1)


class Nothing(Noise):
    """Noise for fake tensors, which have no values."""

    def draw(self, kind, shape, like):
        return torch.empty(tuple(shape), dtype=like.dtype)


@pytest.mark.parametrize("mode", ["evaluation", "evaluation with noise", "training"])
def test_no_value_of_a_tensor_is_waited_for(mode, monkeypatch):
    """Fake tensors have none: item(), bool(), nonzero() or a shape that depends on data would raise. As on an accelerator."""
    monkeypatch.setattr("m2mkd.models.nac.noise._on_cpu", lambda _: False)
    with torch.device("meta"):
        nac = NAC(CONFIG, image_size=16, num_classes=5, prior=None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        nac.to_empty(device="cpu").train(mode == "training")
        draws = None if mode == "evaluation" else Nothing()
        for images in (torch.empty(2, 3, 16, 16), torch.empty(2, 3, 24, 24)):
            with torch.set_grad_enabled(mode == "training"):
                logits = nac(images, draws)
            assert logits.shape == (2, 5)
            if mode == "training":
                (logits.sum() + nac.regularisation()).backward()


def test_evaluation_compiles_without_graph_breaks_and_heeds_new_weights():
    nac = circuit().eval()
    compiled = torch.compile(nac, fullgraph=True, backend="eager")
    with torch.no_grad():
        nac(IMAGES)  # fills the caches
        torch.testing.assert_close(compiled(IMAGES), nac(IMAGES))
        for parameter in nac.parameters():
            parameter.mul_(1.1)
        torch.testing.assert_close(compiled(IMAGES), nac(IMAGES))
