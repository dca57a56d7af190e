"""Each compat switch that acts on a model, its start, its loss or its optimiser: both values, and what they change."""

import math

import pytest
import torch
from torch import nn

from m2mkd.config import load
from m2mkd.config.models import GraphPriors, Latents, NACConfig, TokenizerConfig, VMoEConfig
from m2mkd.config.recipe import Recipe
from m2mkd.distill.losses import kd_divergence
from m2mkd.distill.nac_transfer import transfer_modules
from m2mkd.families.build import build_module, build_student, evaluation, regularisation
from m2mkd.models.nac.kernel import cosine_distance
from m2mkd.models.nac.regularisers import block_model, block_model_loss
from m2mkd.seeds import forked_rng
from m2mkd.training.optim import build_optimizer

NAC = NACConfig(
    state_dim=16,
    code_dim=8,
    signature_dim=16,
    heads=2,
    head_dim=6,
    latents=Latents(input=4, mediator=24, output=3),
    iterations=2,
    layer_scale=0.1,
    tokenizer=TokenizerConfig(depths=(1, 1), stem_stride=2, grid_dim=4),
    graph=GraphPriors(groups=4, regulariser_groups=2, fit_steps=400),
)
VMOE = VMoEConfig(patch_size=4, width=32, heads=2, depths=(1, 1), experts=4)
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe(epochs=1, batch_size=2, lr=1e-3, weight_decay=0.1)


def values(switch):
    """Released and corrected value, from the registry."""
    entry = load.switches()[switch]
    return {switch: entry.released}, {switch: entry.corrected}


def student(compat, config=NAC, prior="scale_free"):
    with forked_rng("student"):
        return build_student(config, image_size=16, num_classes=5, prior=prior, stitch_width=None, compat=compat)


def module(compat, index, config=NAC):
    with forked_rng("module"):
        return build_module(
            config, index, image_size=16, num_classes=5, stitch_width=12, drop_path=0.0, state_seed=0, batch_size=6, compat=compat
        )


def decayed(trained, **options):
    groups = build_optimizer(trained, RECIPE, **options).param_groups
    ids = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in trained.named_parameters() if id(parameter) in ids}


def test_kl_norm():
    student_logits, teacher_logits = torch.randn(2, 4, 1000, generator=torch.Generator().manual_seed(0))
    released, corrected = (kd_divergence(student_logits, teacher_logits, 1.0, *compat.values()) for compat in values("kl_norm"))
    assert corrected / released == pytest.approx(1000)


def test_expert_init():
    released, corrected = (student(compat, VMOE, prior=None).stages[0].blocks[0].mlp for compat in values("expert_init"))
    for layer in ("fc1", "fc2"):
        assert getattr(released, layer).weight.std().item() == pytest.approx(1 / math.sqrt(3 * 32 * 128), rel=0.02)
        assert getattr(corrected, layer).weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_graph_fit_cut():
    def density(compat):
        signatures = student(compat).mediator_latents.signatures.detach()
        return (cosine_distance(signatures, signatures).fill_diagonal_(2) <= NAC.truncation).float().mean().item()

    intended = 2 * 2 * 22 / 24**2  # Barabasi-Albert with two edges for each of 22 nodes
    released, corrected = map(density, values("graph_fit_cut"))
    assert corrected == pytest.approx(intended, rel=0.05)
    assert released > 1.5 * intended


def test_eval_noise():
    released, corrected = values("eval_noise")
    nac = student(corrected).eval()
    predictions = [evaluation(nac, NAC, compat, seed)(IMAGES) for compat in (released, corrected) for seed in (1, 2)]
    assert not torch.equal(*predictions[:2])
    assert torch.equal(*predictions[2:])


def test_readin_ffn_layer_scale():
    released, corrected = (module(compat, 0) for compat in values("readin_ffn_layer_scale"))
    assert torch.all(released.read_in.ffn.layer_scale.gamma == 1e-6)
    assert torch.all(corrected.read_in.ffn.layer_scale.gamma == NAC.layer_scale)
    assert not torch.allclose(released(IMAGES), corrected(IMAGES), atol=1e-4)


def test_module_states():
    released, corrected = values("module_states")
    one = IMAGES[:1].expand(6, -1, -1, -1)
    for index in (0, 3):
        x = one if index == 0 else torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1)).expand(6, -1, -1)
        differing, same = (module(compat, index).eval()(x) for compat in (released, corrected))
        assert not torch.allclose(differing[0], differing[1], atol=1e-6)
        torch.testing.assert_close(same, same[:1].expand_as(same))
        torch.testing.assert_close(differing[0], same[0])  # the first place has the state that all share otherwise
    assert "states" not in module(released, 1).state_dict()


def test_scorer_transfer():
    sources = [module({}, index).state_dict() for index in range(4)]
    sources[-1]["tokenizer.confidence_scorer.weight"] = torch.full((1, 16), 7.0)
    released, corrected = (student({}) for _ in range(2))
    fresh = corrected.output_tokenizer.confidence_scorer.weight.clone()
    for nac, compat in zip((released, corrected), values("scorer_transfer"), strict=True):
        left = transfer_modules(nac, sources, same_geometry=True, scorer=compat["scorer_transfer"])
        assert ("output_tokenizer.confidence_scorer.weight" in left) == (nac is corrected)
        assert torch.equal(nac.output_tokenizer.to_logits.weight, sources[-1]["tokenizer.to_logits.weight"])
    assert torch.all(released.output_tokenizer.confidence_scorer.weight == 7.0)
    assert torch.equal(corrected.output_tokenizer.confidence_scorer.weight, fresh)


def test_distance_precision():
    released, corrected = (student(compat) for compat in values("distance_precision"))
    assert torch.equal(released.mediator_latents.signatures, corrected.mediator_latents.signatures)
    coarse, exact = (nac._distance_to_senders(nac.mediator_latents) for nac in (released, corrected))
    assert torch.equal(coarse, coarse.half().float())
    assert not torch.equal(exact, exact.half().float())
    assert 1e-5 < (coarse - exact).abs().max() < 2e-3
    coarse.sum().backward()
    assert released.mediator_latents.signatures.grad.abs().sum() > 0


def test_block_model_permutation():
    nac = student({}, prior="planted_partition")
    with torch.no_grad():
        nac.mediator_latents.signatures.copy_(torch.randn(24, 16, generator=torch.Generator().manual_seed(1)))
    released, corrected = values("block_model_permutation")
    distance = cosine_distance(nac.mediator_latents.signatures, nac.mediator_latents.signatures)
    links = nac.propagators[0].latent_attention.kernel.log(distance).exp()  # the same in both layers at the start
    for compat in (released, corrected):
        expected = 2 * block_model_loss(links, block_model(24, 4, 0.9, 0.2), *compat.values())
        torch.testing.assert_close(regularisation(nac.config, nac, compat), expected)
    assert abs(regularisation(nac.config, nac, released) / regularisation(nac.config, nac, corrected) - 1) > 0.03


def test_block_model_groups():
    released, corrected = (student(compat, prior="planted_partition") for compat in values("block_model_groups"))
    assert released.config.graph.regulariser_groups == 2
    assert corrected.config.graph.regulariser_groups is None
    assert regularisation(corrected.config, corrected, {}) < 0.8 * regularisation(
        released.config, released, {}
    )  # its own groups fit it better than fewer


def test_weight_decay_filter():
    nac = student({})
    everything, matrices = decayed(nac, decay_all=True), decayed(nac, no_weight_decay=nac.no_weight_decay())
    assert everything == {name for name, _ in nac.named_parameters()}
    no_weight_decay = everything - matrices
    for part in ("codes", "signatures", "bias", "bandwidth", "gain", "layernorm.weight", "positional_grid"):
        assert any(part in name for name in no_weight_decay), part
        assert not any(part in name for name in matrices), part
    assert any(name.endswith("native_weight") for name in matrices)


def test_gain_decay():
    mediator = module({}, 1)
    gains = {name for name, parameter in mediator.named_parameters() if parameter.ndim == 0}
    assert gains
    assert decayed(mediator, decay_scalars=True) - decayed(mediator) == gains


def test_decay_pulls_what_it_acts_on_and_leaves_the_rest():
    layer = nn.LayerNorm(3)
    optimizer = build_optimizer(layer, RECIPE, decay_all=True)
    layer.weight.grad = torch.zeros(3)
    optimizer.step()
    assert layer.weight.detach() == pytest.approx(1 - RECIPE.peak_lr * RECIPE.weight_decay)


def test_the_read_out_sees_every_sender_in_both_profiles():
    """Row N36: the read-out's kernel is neither cut nor sampled, as released."""
    for profile in ("released", "corrected"):
        nac = student({name: getattr(switch, profile) for name, switch in load.switches().items()})
        kernel = nac.read_out.latent_attention.kernel
        distance = torch.tensor([[0.0, NAC.truncation, 1.9]])
        assert kernel.training and not kernel.cuts
        torch.testing.assert_close(kernel(distance, 1, None), -distance[None])
