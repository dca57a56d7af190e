"""The Neural Attentive Circuit against recordings of the released one (specification nac.md 18)."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from m2mkd.config.models import NAC as NACConfig
from m2mkd.config.models import GraphPriors, Latents, Tokenizer
from m2mkd.distill.nac_transfer import transfer_modules
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.graphs import refine_signatures
from m2mkd.models.nac.kernel import DotProductKernel, cosine_distance
from m2mkd.models.nac.noise import Noise
from m2mkd.models.nac.regularisers import block_model, block_model_loss, signature_repulsion
from m2mkd.models.nac.students import build_nac_module
from m2mkd.upstream.nac import nac_name, nac_names

CLOSE = {"atol": 2e-5, "rtol": 0}
KINDS = {
    "code_noise_uniform01": "code",
    "seeder_normal": "state",
    "relaxed_bernoulli_uniform": "edge",
    "drop_path_uniform": "drop_path",
    "gumbel": "gumbel",
}
CONFIG = NACConfig(
    state_dim=32,
    code_dim=16,
    signature_dim=8,
    heads=2,
    head_dim=12,
    latents=Latents(input=8, mediator=16, output=8),
    iterations=2,
    tokenizer=Tokenizer(depths=(1, 1), grid_dim=4),
    graph=GraphPriors(groups=4),
)
SIZES = {"image_size": 32, "num_classes": 10}
MODELS = {"nac_small_ba": CONFIG, "nac_small_planted": CONFIG.model_copy(update={"ffn_capacity": 1.3333})}


@pytest.fixture(scope="module")
def load(fixtures_dir):
    def read(name):
        return load_file(fixtures_dir / "nac" / f"{name}.safetensors")

    return read


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def circuit(name, load):
    nac = NAC(MODELS[name], prior=None, **SIZES)
    nac.load_state_dict(nac_names(load(f"{name}.state_dict")))
    return nac


def replay(recorded):
    draws = sorted(key for key in recorded if key.startswith("rand."))
    return Noise.replay([(KINDS[key.split(".")[2]], recorded[key]) for key in draws])


def observe(nac):
    """Outputs of the parts, filled at the next forward pass under the names of the recordings."""
    seen = {}
    parts = {
        "act.tokenizer_backbone_bchw": nac.input_tokenizer.backbone,
        "act.tokens": nac.input_tokenizer,
        "act.read_in.attention": nac.read_in.read_in_attention,
        "act.read_in.out": nac.read_in,
        "act.read_out.attention": nac.read_out.latent_attention,
        "act.read_out.out": nac.read_out,
        "act.output.confidence_scores": nac.output_tokenizer.confidence_scorer,
    }
    for i, propagator in enumerate(nac.propagators):
        parts[f"act.propagator.{i}.attention"] = propagator.latent_attention
        parts[f"act.propagator.{i}.out"] = propagator
    for key, part in parts.items():
        part.register_forward_hook(lambda _, __, output, key=key: seen.update({key: output}))
    seeds = iter(("input", "mediator", "output"))
    nac.latent_seeder.register_forward_hook(lambda _, __, output: seen.update({f"act.seed.{next(seeds)}": output}))
    return seen


def assert_gradients(module, recorded, prefix):
    """Every recorded gradient is there, to 2e-4 of its maximum, except that of the bias which has none (softmax is shift invariant)."""
    gradients = {nac_name(key.removeprefix(prefix)): value for key, value in recorded.items() if key.startswith(prefix)}
    assert gradients.keys() == {key for key, _ in module.named_parameters()}
    for key, parameter in module.named_parameters():
        if not key.endswith("confidence_scorer.bias"):
            scale = gradients[key].abs().max().item()
            torch.testing.assert_close(
                parameter.grad, gradients[key], atol=2e-4 * scale, rtol=0, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.parametrize("mode", ["eval_noise", "eval_zero_noise", "train"])
def test_circuit_replays_the_recording(name, mode, load):
    nac, recorded = circuit(name, load).train(mode == "train"), load(f"{name}.{mode}")
    seen, noise = observe(nac), replay(recorded)
    logits = nac(recorded["input.image"], noise)
    loss = F.cross_entropy(logits, recorded["input.labels"])
    loss.backward()

    with pytest.raises(ValueError, match="the record holds nothing"):
        noise.draw("gumbel", (1,), logits)
    assert seen.keys() == {key for key in recorded if key.startswith("act.")}
    for key, value in seen.items():
        torch.testing.assert_close(value, recorded[key], **CLOSE, msg=lambda text, key=key: f"{key}: {text}")
    torch.testing.assert_close(seen["act.propagator.1.out"], recorded["out.final_mediator_states"], **CLOSE)
    torch.testing.assert_close(seen["act.read_in.out"], recorded["out.final_input_states"], **CLOSE)
    torch.testing.assert_close(seen["act.read_out.out"], recorded["out.final_output_states"], **CLOSE)
    torch.testing.assert_close(logits, recorded["out.logits"], **CLOSE)
    torch.testing.assert_close(loss, recorded["out.ce_loss"], **CLOSE)
    assert_gradients(nac, recorded, "grad.")


def test_circuit_without_noise_is_the_recording_with_zeros(name, load):
    recorded = load(f"{name}.eval_zero_noise")
    logits = circuit(name, load).eval()(recorded["input.image"])
    torch.testing.assert_close(logits, recorded["out.logits"], **CLOSE)


def test_kernels(name, load):
    nac, recorded = circuit(name, load).train(), load(f"{name}.train")
    mediators = nac.mediator_latents.signatures
    senders = torch.cat([nac.input_latents.signatures, mediators])
    noise = Noise.replay([("edge", value) for key, value in sorted(recorded.items()) if "relaxed_bernoulli" in key])
    rows = {f"propagator.{i}": (mediators, layer) for i, layer in enumerate(nac.propagators)}
    for key, (receivers, layer) in (rows | {"read_out": (nac.output_latents.signatures, nac.read_out)}).items():
        kernel: DotProductKernel = layer.latent_attention.kernel
        distance = cosine_distance(receivers, senders)
        torch.testing.assert_close(distance, recorded[f"kernel.{key}.distance"], **CLOSE)
        log_kernel = kernel.log(distance)
        torch.testing.assert_close(log_kernel, recorded[f"kernel.{key}.log"], **CLOSE)
        if key != "read_out":
            torch.testing.assert_close(log_kernel.exp(), recorded[f"kernel.{key}.value"], **CLOSE)
        bias = kernel(distance, len(recorded["input.image"]), noise)
        expected = recorded[f"kernel.{key}.log_normalised"]
        # Normalised logarithms reach -60, where one step of float32 is 4e-6.
        torch.testing.assert_close(bias.log_softmax(-1), expected.expand_as(bias), atol=1e-4, rtol=0)


@pytest.mark.parametrize("hinge", [0.4, 0.9])
def test_signature_repulsion(name, hinge, load):
    recorded, nac = load(f"{name}.regularisers"), circuit(name, load)
    groups = {key: getattr(nac, f"{key}_latents").signatures for key in ("input", "mediator", "output")}
    loss = signature_repulsion(torch.cat(list(groups.values())), hinge)
    torch.testing.assert_close(loss, recorded[f"hinge.{hinge}.sum.value"], **CLOSE)
    gradients = torch.autograd.grad(loss, groups.values())
    for key, gradient in zip(groups, gradients, strict=True):
        expected = recorded[f"hinge.{hinge}.sum.grad.{key}_signatures"]
        torch.testing.assert_close(gradient, expected, atol=2e-4 * max(expected.abs().max().item(), 1e-6), rtol=0)


def test_block_model_with_permuted_rows(name, load):
    recorded, nac = load(f"{name}.regularisers"), circuit(name, load)
    nac.prior = "planted_partition"
    target = block_model(16, 4, 0.9, 0.2)
    torch.testing.assert_close(target, recorded["sbm.graphon"])
    for i in range(2):
        single = block_model_loss(recorded[f"sbm.link.{i}"], target, "rows")
        torch.testing.assert_close(single, (recorded[f"sbm.link_permuted_rows.{i}"] - target).square().mean(), **CLOSE)
    loss = nac.regularisation("rows")
    torch.testing.assert_close(loss, recorded["sbm.clip_None.value"], **CLOSE)
    loss.backward()
    expected = recorded["sbm.clip_None.grad.mediator_signatures"]
    torch.testing.assert_close(nac.mediator_latents.signatures.grad, expected, atol=2e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("prior", ["barabasi-albert", "erdos-renyi", "planted-partition", "ring-of-cliques"])
def test_fit_of_signatures(prior, load):
    recorded = load("graph_signatures")
    fitted = refine_signatures(recorded[f"{prior}.init"], recorded[f"{prior}.adjacency"], cut=0.8, steps=1000)
    torch.testing.assert_close(fitted, recorded[f"{prior}.signatures"], **CLOSE)


STUDENTS = {"readin": 0, "mediator": 1, "readout": 3}


def student(name, load, recorded):
    """Released module in evaluation, with the code and the states of the recording."""
    module = build_nac_module(CONFIG, STUDENTS[name], stitch_width=48, state_seed=0, **SIZES).eval()
    constants = {key: recorded[f"input.{key}"] for key in ("codes", "states")}
    for key, _ in list(module.named_buffers()):
        setattr(module, key, constants[key])
    own = {key: getattr(module, key) for key, _ in module.named_buffers()}
    module.load_state_dict(nac_names(load(f"student_{name}.state_dict")) | own)
    return module


@pytest.mark.parametrize("name", STUDENTS)
def test_module_alone(name, load):
    recorded = load("students_m2mkd")
    module = student(name, load, recorded)
    x = recorded["input.image" if name == "readin" else f"{name}.meta_prefix"]
    torch.testing.assert_close(module(x), recorded[f"{name}.module_out"], **CLOSE)


def test_gradients_of_the_read_out_alone(load):
    """The read-out's logits enter the loss directly, so that its gradients need no meta model."""
    recorded = load("students_m2mkd")
    module = student("readout", load, recorded)
    logits, teacher = module(recorded["readout.meta_prefix"]), recorded["readout.teacher_logits"]
    distillation = F.kl_div(logits.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="sum") / logits.numel()
    loss = 0.5 * F.cross_entropy(logits, recorded["input.soft_labels"]) + 0.5 * distillation
    torch.testing.assert_close(loss, recorded["readout.loss.soft"], **CLOSE)
    loss.backward()
    scorer = module.tokenizer.confidence_scorer.weight
    assert scorer.grad.abs().max() < 1e-7, "pooling one latent is the identity"
    scorer.grad.zero_()
    assert_gradients(module, recorded, "readout.grad.")


@pytest.mark.parametrize("name", ["readin", "mediator", "readout"])
def test_layer_scale_starts_as_released(name, fixtures_dir):
    meta = json.loads((fixtures_dir / "nac" / "students.meta.json").read_text())
    module = build_nac_module(CONFIG, STUDENTS[name], stitch_width=48, state_seed=0, readin_ffn_layer_scale=1e-6, **SIZES)
    parameters = dict(module.named_parameters())
    for key, value in meta["layer_scale_init"][name].items():
        assert torch.all(parameters[nac_name(key)] == value), key


def test_circuit_from_modules(load, fixtures_dir):
    meta = json.loads((fixtures_dir / "nac" / "nac_from_students.meta.json").read_text())
    expected = nac_names(load("nac_from_students.state_dict"))
    files = ("student_readin", "student_mediator", "student_mediator_2", "student_readout")
    nac = NAC(CONFIG, prior=None, **SIZES)
    left = transfer_modules(nac, [nac_names(load(f"{file}.state_dict")) for file in files], same_geometry=True)
    assert set(left) == {nac_name(key) for key in meta["untouched"]}
    state = nac.state_dict()
    assert state.keys() == expected.keys()
    for key in expected.keys() - set(left):
        assert torch.equal(state[key], expected[key]), key


def sized(state_dim, heads, inputs, mediators, capacity):
    latents = Latents(input=inputs, mediator=mediators, output=64)
    return NACConfig(state_dim=state_dim, code_dim=state_dim, heads=heads, latents=latents, ffn_capacity=capacity)


TINY, IMAGENET = sized(384, 6, 64, 256, 2.0), sized(512, 8, 192, 768, 1.0)


@pytest.mark.parametrize(("config", "image_size", "num_classes", "count"), [(TINY, 64, 200, 26_703_342), (IMAGENET, 224, 1000, 37_589_294)])
def test_number_of_parameters(config, image_size, num_classes, count):
    with torch.device("meta"):
        nac = NAC(config, image_size=image_size, num_classes=num_classes, prior=None)
    assert sum(parameter.numel() for parameter in nac.parameters()) == count
    assert len(nac.state_dict()) == 362


@pytest.mark.parametrize(("config", "counts"), [(TINY, (4_093_286, 3_496_070, 3_389_423)), (IMAGENET, (5_898_246, 4_725_510, 4_583_407))])
def test_number_of_parameters_of_modules(config, counts):
    for index, count in zip((0, 1, config.modules - 1), counts, strict=True):
        with torch.device("meta"):
            module = build_nac_module(config, index, image_size=224, num_classes=1000, stitch_width=1280, state_seed=0)
        assert sum(parameter.numel() for parameter in module.parameters()) == count


@pytest.mark.parametrize(("name", "count"), [("nac_small_ba", 58_614), ("nac_small_planted", 49_038)])
def test_number_of_parameters_of_the_recorded(name, count):
    assert sum(parameter.numel() for parameter in NAC(MODELS[name], prior=None, **SIZES).parameters()) == count
