"""The Neural Attentive Circuit against recordings of the released one (specification nac.md 18)."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from m2mkd import upstream
from m2mkd.config.recipe import Distillation
from m2mkd.distill.hybrid import DistillationHybrid
from m2mkd.distill.losses import distillation_loss
from m2mkd.distill.nac_transfer import transfer_modules
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.graphs import refine_signatures
from m2mkd.models.nac.kernel import DotProductKernel, cosine_distance
from m2mkd.models.nac.noise import Noise
from m2mkd.models.nac.regularisers import block_model, block_model_loss, signature_repulsion
from m2mkd.models.nac.students import build_nac_module
from m2mkd.models.names.nac import released_name
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.network import convert
from tests.parity.released import IMAGENET, TINY, empty, nac_shapes

CLOSE = {"atol": 2e-5, "rtol": 0}
KINDS = {
    "code_noise_uniform01": "code",
    "seeder_normal": "state",
    "relaxed_bernoulli_uniform": "edge",
    "drop_path_uniform": "drop_path",
    "gumbel": "gumbel",
}
SIZES = {"image_size": 32, "num_classes": 10}
MODELS = ("nac_small_ba", "nac_small_planted")


@pytest.fixture(scope="module")
def load(fixtures_dir):
    def read(name):
        return load_file(fixtures_dir / "nac" / f"{name}.safetensors")

    return read


@pytest.fixture(scope="module")
def meta(fixtures_dir):
    def read(name):
        return json.loads((fixtures_dir / "nac" / f"{name}.meta.json").read_text())

    return read


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def circuit(name, load, meta):
    return upstream.load("nac", load(f"{name}.state_dict"), meta(name)["kwargs"])


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


def assert_gradients(module, recorded, prefix, description):
    """Every recorded gradient is there, to 2e-4 of its maximum, except that of the bias which has none (softmax is shift invariant)."""
    released = {key.removeprefix(prefix): value for key, value in recorded.items() if key.startswith(prefix)}
    gradients = convert(description, released)
    for key, parameter in module.named_parameters():
        if not key.endswith("confidence_scorer.bias"):
            scale = gradients[key].abs().max().item()
            torch.testing.assert_close(
                parameter.grad, gradients[key], atol=2e-4 * scale, rtol=0, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.parametrize("mode", ["eval_noise", "eval_zero_noise", "train"])
def test_circuit_replays_the_recording(name, mode, circuit, load, meta):
    nac, recorded = circuit.train(mode == "train"), load(f"{name}.{mode}")
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
    assert_gradients(nac, recorded, "grad.", describe_checkpoint("nac", meta(name)["kwargs"], {}))


@pytest.mark.parametrize("simplified", [True, False])
def test_circuit_without_noise_is_the_recording_with_zeros(name, simplified, load, meta):
    """``model(image)`` is a tensor of logits, the same each time, whatever the released interface was."""
    recorded, kwargs = load(f"{name}.eval_zero_noise"), meta(name)["kwargs"] | {"simplified_interface": simplified}
    nac = upstream.load("nac", load(f"{name}.state_dict"), kwargs)
    logits = nac(recorded["input.image"])
    torch.testing.assert_close(logits, recorded["out.logits"], **CLOSE)
    assert torch.equal(nac(recorded["input.image"]), logits)


def test_kernels(name, circuit, load):
    nac, recorded = circuit.train(), load(f"{name}.train")
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
def test_signature_repulsion(name, hinge, circuit, load):
    recorded, nac = load(f"{name}.regularisers"), circuit
    groups = {key: getattr(nac, f"{key}_latents").signatures for key in ("input", "mediator", "output")}
    loss = signature_repulsion(torch.cat(list(groups.values())), hinge)
    torch.testing.assert_close(loss, recorded[f"hinge.{hinge}.sum.value"], **CLOSE)
    gradients = torch.autograd.grad(loss, groups.values())
    for key, gradient in zip(groups, gradients, strict=True):
        expected = recorded[f"hinge.{hinge}.sum.grad.{key}_signatures"]
        torch.testing.assert_close(gradient, expected, atol=2e-4 * max(expected.abs().max().item(), 1e-6), rtol=0)


def test_block_model_with_permuted_rows(name, circuit, load):
    recorded, nac = load(f"{name}.regularisers"), circuit
    nac.prior = "planted_partition"
    nac.config = nac.config.model_copy(update={"graph": nac.config.graph.model_copy(update={"groups": 4})})
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


@pytest.fixture
def student(name, load, meta):
    """Released module, with the code and the states of the recording."""
    recorded = load("students_m2mkd")
    module = upstream.load(f"nac_{name}", load(f"student_{name}.state_dict"), meta("students"))
    for key, _ in list(module.named_buffers()):
        setattr(module, key, recorded[f"input.{key}"])
    return module


@pytest.fixture
def vit(load, meta):
    """Meta model or teacher that the modules were distilled with."""

    def build(name):
        config = meta("students")
        depths = config[f"{name.removeprefix('vit_')}_divided_depths"]
        return upstream.load("vit", load(f"{name}.state_dict"), config["vit"] | {"divided_depths": depths})

    return build


@pytest.mark.parametrize("name", STUDENTS)
def test_module_alone(name, student, load):
    recorded = load("students_m2mkd")
    x = recorded["input.image" if name == "readin" else f"{name}.meta_prefix"]
    torch.testing.assert_close(student(x), recorded[f"{name}.module_out"], **CLOSE)


@pytest.mark.parametrize("name", STUDENTS)
def test_code_and_states_are_given_in_config_or_state(name, student, load, meta):
    recorded = load("students_m2mkd")
    constants = {key: recorded[f"input.{key}"] for key, _ in student.named_buffers()}
    state, shared = load(f"student_{name}.state_dict"), meta("students")
    section = shared["share_kwargs"] | shared["students"][name]  # without stitch_dim, which the tensors tell
    x = recorded["input.image" if name == "readin" else f"{name}.meta_prefix"]
    listed = {key: value.tolist() for key, value in constants.items()}
    for module in (upstream.load(f"nac_{name}", state, section | listed), upstream.load(f"nac_{name}", state | constants, section)):
        torch.testing.assert_close(module(x), student(x), atol=0, rtol=0)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_m2mkd_step(name, kind, student, vit, load, meta):
    """Meta model with the student's and with the teacher's module in the same place; gradients reach the student alone."""
    recorded = load("students_m2mkd")
    meta_model, teacher = vit("vit_meta"), vit("vit_teacher")
    index = min(STUDENTS[name], 2)
    network = DistillationHybrid(meta_model, index, student, teacher.stages[index])
    logits, taught = network(recorded["input.image"])
    torch.testing.assert_close(logits, recorded[f"{name}.student_logits"], **CLOSE)
    torch.testing.assert_close(taught, recorded[f"{name}.teacher_logits"], **CLOSE)
    if index:
        prefix = meta_model.stages[:index]
        torch.testing.assert_close(nn.Sequential(*prefix)(recorded["input.image"]), recorded[f"{name}.meta_prefix"], **CLOSE)
    loss = distillation_loss(logits, recorded["input.soft_labels"], taught, Distillation(kind=kind, alpha=0.5, tau=1.0), "numel").value
    torch.testing.assert_close(loss, recorded[f"{name}.loss.{kind}"], **CLOSE)
    if kind == "hard":
        return
    loss.backward()
    if name == "readout":
        scorer = student.tokenizer.confidence_scorer.weight
        assert scorer.grad.abs().max() < 1e-7, "pooling one latent is the identity"
        scorer.grad.zero_()
        recorded = recorded | {"readout.grad.tokenizer.confidence_scorer.weight": torch.zeros_like(scorer)}
    assert_gradients(student, recorded, f"{name}.grad.", describe_checkpoint(f"nac_{name}", meta("students"), {}))


@pytest.mark.parametrize("name", STUDENTS)
def test_layer_scale_starts_as_released(name, meta):
    config = describe_checkpoint(f"nac_{name}", meta("students"), {}).architecture
    index = min(STUDENTS[name], config.modules - 1)
    module = build_nac_module(config, index, stitch_width=48, state_seed=0, readin_ffn_layer_scale=1e-6, **SIZES)
    parameters = {released_name(key, whole=False): value for key, value in module.named_parameters()}
    for key, value in meta("students")["layer_scale_init"][name].items():
        assert torch.all(parameters[key] == value), key


def test_circuit_from_modules(load, meta):
    recorded = meta("nac_from_students")
    description = describe_checkpoint("nac", recorded["kwargs"], {})
    expected = convert(description, load("nac_from_students.state_dict"))
    nac = NAC(description.architecture, prior=None, **SIZES)
    modules = [
        convert(describe_checkpoint(f"nac_{name.removesuffix('_2')}", meta("students"), {}), load(f"student_{name}.state_dict"))
        for name in ("readin", "mediator", "mediator_2", "readout")
    ]
    left = transfer_modules(nac, modules, same_geometry=True)
    assert {released_name(key, whole=True) for key in left} == set(recorded["untouched"])
    state = nac.state_dict()
    assert state.keys() == expected.keys()
    for key in expected.keys() - set(left):
        assert torch.equal(state[key], expected[key]), key


@pytest.mark.parametrize(("kwargs", "count"), [(TINY, 26_703_342), (IMAGENET, 37_589_294)])
def test_full_size_maps_one_to_one(kwargs, count):
    shapes = nac_shapes(kwargs)
    assert len(shapes) == 362
    description = describe_checkpoint("nac", kwargs, {})
    ours = convert(description, empty(shapes))
    with torch.device("meta"):
        own = NAC(description.architecture, image_size=description.image_size, num_classes=description.num_classes, prior=None).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in own.items()}
    assert sum(tensor.numel() for tensor in ours.values()) == count


@pytest.mark.parametrize(("kwargs", "counts"), [(TINY, (4_093_286, 3_496_070, 3_389_423)), (IMAGENET, (5_898_246, 4_725_510, 4_583_407))])
def test_number_of_parameters_of_modules(kwargs, counts):
    config = describe_checkpoint("nac", kwargs, {}).architecture
    for index, count in zip((0, 1, config.modules - 1), counts, strict=True):
        with torch.device("meta"):
            module = build_nac_module(config, index, image_size=224, num_classes=1000, stitch_width=1280, state_seed=0)
        assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_number_of_parameters_of_the_recorded(name, circuit, meta):
    assert sum(parameter.numel() for parameter in circuit.parameters()) == meta(name)["n_params"]
