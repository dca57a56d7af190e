"""How students use their parts: attention computed anew, effective graphs, latents and routing."""

import json
import math

import pytest
import torch

from m2mkd.config.models import GraphPriors, Latents, NACConfig, TokenizerConfig, VMoEConfig
from m2mkd.evaluation.attention import attention_weights, watched
from m2mkd.evaluation.diagnostics import diagnose, effective_number, scalars
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.kernel import cosine_distance
from m2mkd.models.vmoe import VMoE

INPUTS, MEDIATORS, OUTPUTS, ITERATIONS = 4, 8, 3, 2
CONFIG = NACConfig(
    state_dim=16,
    code_dim=8,
    signature_dim=8,
    heads=2,
    head_dim=6,
    latents=Latents(input=INPUTS, mediator=MEDIATORS, output=OUTPUTS),
    iterations=ITERATIONS,
    layer_scale=1.0,
    tokenizer=TokenizerConfig(depths=(1, 1), stem_stride=2, grid_dim=4),
    graph=GraphPriors(groups=2, fit_steps=300),
)
TOKENS = (16 // 4) ** 2
IMAGES = torch.randn(11, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ATTENTIONS = ["read_in.read_in_attention", "propagators.0.latent_attention", "propagators.1.latent_attention", "read_out.latent_attention"]


@pytest.fixture
def nac():
    """A circuit whose attention is far from even."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        circuit = NAC(CONFIG, image_size=16, num_classes=5, prior="scale_free")
        with torch.no_grad():
            for name, parameter in circuit.named_parameters():
                if name.endswith("compiler.native_weight"):
                    parameter.mul_(3)
                if name.endswith("bandwidth"):
                    parameter.fill_(0.7)
    return circuit.eval()


@pytest.fixture
def vmoe():
    return routed_by()


def routed_by(**router):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = VMoEConfig(patch_size=4, width=16, heads=2, depths=(1, 1), experts=4, top_k=2, **router)
        network = VMoE(config, image_size=16, num_classes=5)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "gate" in name:
                    parameter.normal_(std=0.5)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_computed_anew_gives_what_the_layer_gave(nac, name):
    seen = []
    with watched({name: nac.get_submodule(name)}, lambda *call: seen.append(call)):
        nac(IMAGES)
    ((_, layer, arguments, output),) = seen
    weights, again = attention_weights(layer, arguments)
    torch.testing.assert_close(again, output, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    senders = {"read_in": TOKENS}.get(name.split(".")[0], INPUTS + MEDIATORS)
    assert weights.shape[:2] == (11, 2) and weights.shape[-1] == senders
    if name.startswith("propagators"):
        signatures = torch.cat([nac.input_latents.signatures, nac.mediator_latents.signatures])
        cut = cosine_distance(nac.mediator_latents.signatures, signatures) > 0.9
        assert cut.any() and not weights[:, :, cut].any()


@torch.no_grad()
def test_a_receiver_without_an_edge_has_no_attention(nac):
    name = ATTENTIONS[1]
    nac.propagators[0].latent_attention.kernel.truncation = 0.5
    nac.mediator_latents.signatures[3] = -nac.mediator_latents.signatures[3] * 0  # at distance 1 of all, itself included
    seen = []
    with watched({name: nac.get_submodule(name)}, lambda *call: seen.append(call)):
        nac(IMAGES)
    _, layer, arguments, output = seen[0]
    weights, again = attention_weights(layer, arguments)
    torch.testing.assert_close(again, output, atol=1e-5, rtol=0)
    assert not weights[:, :, 3].any() and weights[:, :, 4].any()


def test_hooks_are_gone_afterwards_and_change_nothing(nac):
    before = nac(IMAGES)
    with pytest.raises(RuntimeError), watched({"": nac.read_in}, lambda *_: None):
        raise RuntimeError
    assert not nac.read_in._forward_hooks
    nac.train()
    diagnose(nac.config, nac, IMAGES)
    assert nac.training and not any(module._forward_hooks for module in nac.modules())
    assert torch.equal(nac.eval()(IMAGES), before)


def test_diagnosis_of_a_nac(nac):
    found = diagnose(nac.config, nac, IMAGES)
    assert json.loads(json.dumps(found)) == found and len(json.dumps(found)) < 5000
    assert found["images"] == 11
    read_in, *propagators, read_out = found["layers"]
    assert [layer["name"] for layer in found["layers"]] == ["read_in", "propagators.0", "propagators.1", "read_out"]
    for layer, senders in ((read_in, TOKENS), (propagators[0], INPUTS + MEDIATORS), (read_out, INPUTS + MEDIATORS)):
        low, *_, high = layer["effective_senders"]["quantiles"]
        assert 1 <= low < layer["effective_senders"]["mean"] < high <= senders
        assert len(layer["entropy"]) == 2 and all(0 < entropy < math.log(senders) for entropy in layer["entropy"])
    assert "from_self" not in read_out and 0 < propagators[1]["from_self"] < 1 - propagators[1]["from_inputs"]
    for name, count in (("mediator_share", MEDIATORS), ("output_weights", OUTPUTS)):
        assert len(found[name]) == count and sum(found[name]) == pytest.approx(1, abs=1e-4)
    assert found["graph"]["bandwidths"] == pytest.approx([0.7, 0.7])
    assert found["graph"]["mean_degree"] == pytest.approx(found["graph"]["density"] * (MEDIATORS - 1), rel=1e-5)


@torch.no_grad()
def test_numbers_of_a_nac_are_those_of_all_images_at_once(nac):
    """By hand, for one layer; the images come in parts of eight, and the last part is smaller."""
    seen = {}
    with watched({name: nac.get_submodule(name) for name in ATTENTIONS}, lambda name, *rest: seen.update({name: rest})):
        nac(IMAGES)
    found = diagnose(nac.config, nac, IMAGES)
    layer, arguments, _ = seen[ATTENTIONS[2]]
    weights, _ = attention_weights(layer, arguments)
    mass = weights.mean((0, 1))
    summary = found["layers"][2]
    entropy = torch.special.entr(weights).sum(-1).mean((0, 2))
    assert summary["entropy"] == pytest.approx(entropy.tolist(), rel=1e-4)
    senders = torch.special.entr(mass).sum(-1).exp()
    assert summary["effective_senders"]["mean"] == pytest.approx(senders.mean().item(), rel=1e-4)
    assert summary["effective_senders"]["quantiles"][2] == pytest.approx(senders.quantile(0.5).item(), rel=1e-4)
    assert summary["from_inputs"] == pytest.approx(mass[:, :INPUTS].sum().item() / MEDIATORS, rel=1e-4)
    assert summary["from_self"] == pytest.approx(sum(mass[row, INPUTS + row].item() for row in range(MEDIATORS)) / MEDIATORS, rel=1e-4)
    received = [attention_weights(seen[name][0], seen[name][1])[0].sum((0, 1, 2))[INPUTS:] for name in ATTENTIONS[1:]]
    shares = torch.stack([values / values.sum() for values in received]).mean(0)
    assert found["mediator_share"] == pytest.approx(shares.tolist(), rel=1e-4)


def test_latents_that_win_the_pooling_show(nac):
    with torch.no_grad():
        nac.output_tokenizer.confidence_scorer.weight.zero_()
    assert diagnose(nac.config, nac, IMAGES)["output_weights"] == pytest.approx([1 / 3] * 3, rel=1e-4)


@torch.no_grad()
def test_diagnosis_of_a_vmoe(vmoe):
    found = diagnose(vmoe.config, vmoe, IMAGES)
    assert json.loads(json.dumps(found)) == found
    assert [layer["name"] for layer in found["layers"]] == ["stages.0.blocks.0.mlp", "stages.1.blocks.0.mlp"]
    inputs = []
    layer = vmoe.get_submodule("stages.1.blocks.0.mlp")
    with watched({"": layer}, lambda _, __, arguments, ___: inputs.append(arguments["x"].flatten(end_dim=-2))):
        vmoe(IMAGES)
    logits = layer.gate(inputs[0])
    counts = logits.topk(2).indices.flatten().bincount(minlength=4)
    summary = found["layers"][1]
    assert summary["tokens"] == pytest.approx((counts / counts.sum()).tolist(), rel=1e-4)
    assert max(summary["tokens"]) > 1.2 * min(summary["tokens"])
    assert summary["router_entropy"] == pytest.approx(torch.special.entr(logits.softmax(-1)).sum(-1).mean().item(), rel=1e-3)
    assert "dropped" not in summary


@torch.no_grad()
def test_pairs_that_found_no_room_are_told_layer_by_layer():
    vmoe = routed_by(router="vmoe", capacity_ratio=0.5)
    found = diagnose(vmoe.config, vmoe, IMAGES[:8])
    vmoe(IMAGES[:8])
    for layer in found["layers"]:
        assert layer["dropped"] == pytest.approx(vmoe.get_submodule(layer["name"]).dropped_share.item(), rel=1e-5)
        assert layer["dropped"] > 0.3
        assert scalars(found)[f"{layer['name']}/dropped_share"] == layer["dropped"]


def test_scalars_are_few_and_plain(nac, vmoe):
    lines = scalars(diagnose(nac.config, nac, IMAGES))
    layers = ("read_in", "propagators.0", "propagators.1", "read_out")
    wanted = {f"{layer}/{name}" for layer in layers for name in ("entropy", "effective_senders")}
    assert set(lines) == wanted | {"graph/density", "output/effective_latents"}
    assert all(isinstance(value, float) for value in lines.values())
    assert 1 <= lines["output/effective_latents"] <= OUTPUTS
    routed = scalars(diagnose(vmoe.config, vmoe, IMAGES))
    assert 1 < routed["stages.0.blocks.0.mlp/effective_experts"] <= 4


def test_effective_number():
    assert effective_number([0.25] * 4) == pytest.approx(4) and effective_number([1.0, 0.0]) == pytest.approx(1)
