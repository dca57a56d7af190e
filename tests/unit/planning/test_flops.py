"""Parameters, FLOPs and activations of the plan, against the specification's tables and against the models themselves."""

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from m2mkd.config.models import Model, NACConfig, TokenizerConfig, ViTConfig, VMoEConfig
from m2mkd.families.build import build_module, build_student
from m2mkd.models.nac.noise import Noise
from m2mkd.models.vit import StagedViT, build_stage
from m2mkd.models.vmoe import build_vmoe_module
from m2mkd.planning import circuit, transformer
from m2mkd.planning.layer_cost import LayerCost
from tests.conftest import ROOT
from tests.unit.planning.counting import counted, parameters_of, saved_bytes

MODELS = TypeAdapter(dict[str, Model]).validate_python(yaml.safe_load((ROOT / "config/models.yaml").read_text()))
VMOE_BASE = MODELS["vmoe_base"]
ORIGINAL_S = VMOE_BASE.model_copy(update={"width": 512, "heads": 8, "depths": (2, 2, 2, 2)})
VIT = ViTConfig(patch_size=8, width=48, heads=4, depths=(1, 2, 2), qkv_bias=False)
MOE = VMoEConfig(patch_size=8, width=48, heads=4, depths=(1, 2, 1), experts=4, moe_blocks="every_2")
CIRCUIT = NACConfig(
    state_dim=48,
    code_dim=40,
    signature_dim=16,
    heads=4,
    head_dim=12,
    latents={"input": 12, "mediator": 24, "output": 6},
    iterations=2,
    ffn_capacity=1.5,
    tokenizer=TokenizerConfig(depths=(1, 2), stem_stride=2, grid_dim=8),
    drop_path=0.0,  # on a CPU dropped samples are not computed
)


@pytest.mark.parametrize(
    ("config", "stitch_width", "parameters", "active", "gmac"),
    [
        (MODELS["deit_large"], None, 304_326_632, 304.33, 61.55),
        (MODELS["deit_huge"], None, 631_922_920, 631.92, 167.30),
        (MODELS["meta_large"], None, 52_402_152, 52.40, 10.39),
        (MODELS["meta_huge"], None, 199_103_720, 199.10, 52.41),
        (VMOE_BASE, None, 483_325_768, 143.31, 28.73),
        (VMOE_BASE, 1024, 488_060_488, 148.05, 29.66),
        (VMOE_BASE.model_copy(update={"moe_blocks": "every_2"}), None, 284_950_000, 114.94, 23.15),
        (MODELS["deit_large"].model_copy(update={"width": 768, "heads": 12, "depths": (3, 3, 3, 3)}), None, 86_570_000, 86.57, 17.56),
        (VMOE_BASE.model_copy(update={"width": 384, "heads": 6}), None, 121_340_000, 36.27, 7.39),
        (ORIGINAL_S, None, 143_840_000, 43.06, 8.66),
    ],
)
def test_transformers_of_section_6(config, stitch_width, parameters, active, gmac):
    network = transformer.network(config, 224, 1000, stitch_width=stitch_width)
    exact = parameters % 10_000
    assert network.parameters == pytest.approx(parameters, abs=0 if exact else 5000)
    assert (network.parameters - network.idle_parameters) / 1e6 == pytest.approx(active, abs=0.005)
    assert network.macs / 1e9 == pytest.approx(gmac, abs=0.005)
    assert network.flops() / 1e9 == pytest.approx(2 * gmac, abs=0.01)


@pytest.mark.parametrize(
    ("config", "moe", "gmac"),
    [(MODELS["deit_large"], False, 2.558), (MODELS["deit_huge"], False, 5.222), (VMOE_BASE, True, 2.385), (VMOE_BASE, False, 1.454)],
)
def test_blocks_of_section_6(config, moe, gmac):
    assert transformer.block(config, transformer.tokens_of(config, 224), moe=moe).macs / 1e9 == pytest.approx(gmac, abs=0.0005)
    assert transformer.stitch(197, 768, 1024).macs / 1e9 == pytest.approx(0.155, abs=0.0005)


@pytest.mark.parametrize(
    ("name", "stitch_width", "stages"),
    [
        ("deit_large", None, [76_567_552, 75_577_344, 75_577_344, 76_604_392]),
        ("meta_large", None, [13_586_432, 12_596_224, 12_596_224, 13_623_272]),
        ("deit_huge", None, [79_778_560, *[59_020_800] * 8, 79_977_960]),
        ("vmoe_base", None, [121_195_800, 120_453_144, 120_453_144, 121_223_680]),
        ("vmoe_base", 1024, [121_984_792, 122_031_384, 122_031_384, 122_012_928]),
    ],
)
def test_stages_of_section_3(name, stitch_width, stages):
    config = MODELS[name]
    planned = [transformer.stage(config, index, 224, 1000, stitch_width=stitch_width).parameters for index in range(config.modules)]
    assert planned == stages


@pytest.mark.parametrize(
    ("name", "size", "classes", "parameters", "released", "batch", "model"),
    [("nac_imagenet", 224, 1000, 37_589_294, 166.8, 1, 68.0), ("nac_tiny_imagenet", 64, 200, 26_703_342, 83.1, 8, 70.4)],
)
def test_circuits_of_nac_md(name, size, classes, parameters, released, batch, model):
    published = circuit.circuit(MODELS[name], size, classes, count="released")
    ours = circuit.circuit(MODELS[name], size, classes, count="model", drawn=False)
    assert published.parameters == ours.parameters == parameters
    assert batch * published.flops(batch) / 1e9 == pytest.approx(released, abs=0.05)
    assert batch * ours.flops(batch) / 1e9 == pytest.approx(model, rel=0.005)


def test_one_tiny_image_of_section_6():
    assert circuit.circuit(MODELS["nac_tiny_imagenet"], 64, 200, count="released").flops() / 1e9 == pytest.approx(15.0, abs=0.05)


@pytest.mark.parametrize(
    ("name", "modules"),
    [("nac_tiny_imagenet", (4_093_286, 3_496_070, 3_389_423)), ("nac_imagenet", (5_898_246, 4_725_510, 4_583_407))],
)
def test_nac_students_of_nac_md(name, modules):
    config = MODELS[name]
    planned = [circuit.module(config, index, 224, 1000, stitch_width=1280, tokens=257, count="model").parameters for index in (0, 1, 9)]
    assert tuple(planned) == modules


@pytest.mark.parametrize("config", [VIT, MODELS["deit_large"], MODELS["deit_huge"]], ids=["small", "deit_large", "deit_huge"])
def test_a_vit_is_counted_exactly(config):
    size = 32 if config is VIT else 224
    with torch.device("meta"):
        network = StagedViT(config, image_size=size, num_classes=10).eval()
        images = torch.empty(2, 3, size, size)
    planned = transformer.network(config, size, 10)
    assert counted(lambda: network(images)) == 2 * planned.flops()
    assert parameters_of(network) == planned.parameters


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("tokens", [17, 1])
def test_a_stage_is_counted_exactly(index, tokens):
    with torch.device("meta"):
        stage = build_stage(VIT, index, image_size=32, num_classes=10)
        x = torch.empty(2, 3, 32, 32) if index == 0 else torch.empty(2, tokens, 48)
    assert counted(lambda: stage(x)) == 2 * transformer.stage(VIT, index, 32, 10, tokens=None if index == 0 else tokens).flops()


@pytest.mark.parametrize("pattern", ["every_2", "all"])
def test_a_vmoe_is_counted(pattern):
    config = MOE.model_copy(update={"moe_blocks": pattern, "stitch": "kept"})
    network = build_student(config, image_size=32, num_classes=10, prior=None, stitch_width=64, compat={}).eval()
    planned = transformer.network(config, 32, 10, stitch_width=64)
    assert counted(lambda: network(torch.zeros(2, 3, 32, 32))) == pytest.approx(2 * planned.flops(), rel=0.02)
    assert parameters_of(network) == planned.parameters


@pytest.mark.parametrize("index", range(3))
def test_a_vmoe_module_is_counted(index):
    module = build_vmoe_module(MOE, index, image_size=32, num_classes=10, stitch_width=64)
    x = torch.zeros(2, 3, 32, 32) if index == 0 else torch.zeros(2, 17, 64)
    planned = transformer.stage(MOE, index, 32, 10, stitch_width=64)
    assert counted(lambda: module(x)) == pytest.approx(2 * planned.flops(), rel=0.02)
    assert parameters_of(module) == planned.parameters


def test_a_gate_of_the_original_router_has_no_bias():
    config = MOE.model_copy(update={"router": "vmoe"})
    network = build_student(config, image_size=32, num_classes=10, prior=None, stitch_width=None, compat={})
    assert parameters_of(network) == transformer.network(config, 32, 10).parameters


@pytest.mark.parametrize("batch", [1, 4])
def test_a_nac_is_counted(batch):
    network = build_student(CIRCUIT, image_size=32, num_classes=10, prior=None, stitch_width=None, compat={}).train()
    planned = circuit.circuit(CIRCUIT, 32, 10, count="model")
    noise = Noise.from_generator(torch.Generator().manual_seed(0))
    flops = counted(lambda: network(torch.zeros(batch, 3, 32, 32), noise=noise))
    assert flops == pytest.approx(batch * planned.flops(batch), rel=0.02)
    assert parameters_of(network) == planned.parameters


@pytest.mark.parametrize("index", range(4))
def test_a_nac_module_is_counted(index):
    module = build_module(
        CIRCUIT, index, image_size=32, num_classes=10, stitch_width=64, drop_path=0.0, state_seed=0, compat={}
    ).train()  # fmt: skip
    x = torch.zeros(2, 3, 32, 32) if index == 0 else torch.zeros(2, 17, 64)
    noise = Noise.from_generator(torch.Generator().manual_seed(0))
    planned = circuit.module(CIRCUIT, index, 32, 10, stitch_width=64, tokens=17, count="model")
    assert counted(lambda: module(x, noise=noise)) == pytest.approx(2 * planned.flops(2), rel=0.02)
    assert parameters_of(module) == planned.parameters


def test_training_costs_three_forward_passes():
    """All but the gradient of the images, which nobody asks for."""
    network = StagedViT(VIT, image_size=32, num_classes=10)
    flops = counted(lambda: network(torch.zeros(2, 3, 32, 32)).sum().backward())
    planned, patches = transformer.network(VIT, 32, 10), transformer.embedding(VIT, 32)
    assert flops == 2 * (3 * planned.flops() - patches.flops())


def test_a_frozen_part_costs_two_forward_passes():
    """All but attention, whose products have no weights but two inputs; the specification's rule leaves that third pass out."""
    stage = build_stage(VIT, 2, image_size=32, num_classes=10).requires_grad_(False)
    x = torch.zeros(2, 17, 48, requires_grad=True)
    attention = VIT.depths[2] * 2 * (2 * 17 * 17 * VIT.width)
    assert counted(lambda: stage(x).sum().backward()) == 2 * (2 * transformer.stage(VIT, 2, 32, 10).flops() + attention)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("config", "tolerance"), [(VIT, 0.05), (MOE.model_copy(update={"moe_blocks": "all"}), 0.15)], ids=["vit", "vmoe"])
def test_activations_of_a_transformer(config, tolerance, half):
    if isinstance(config, VMoEConfig):
        network = build_student(config, image_size=64, num_classes=10, prior=None, stitch_width=None, compat={}).train()
    else:
        network = StagedViT(config, image_size=64, num_classes=10).train()
    measured = saved_bytes(network, lambda: network(torch.randn(16, 3, 64, 64)), 16, half)
    assert transformer.network(config, 64, 10).saved.bytes(2 if half else 4) == pytest.approx(measured, rel=tolerance)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_activations_of_a_frozen_stage(half):
    stage = build_stage(VIT, 2, image_size=64, num_classes=10).requires_grad_(False)
    x = torch.randn(16, 65, 48, requires_grad=True)
    planned: LayerCost = transformer.stage(VIT, 2, 64, 10)
    assert planned.passed.bytes(2 if half else 4) == pytest.approx(saved_bytes(stage, lambda: stage(x), 16, half), rel=0.05)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_activations_of_a_nac(half):
    """Within a third: a CPU's attention with an additive bias keeps its probabilities, which a GPU's does not."""
    network = build_student(CIRCUIT, image_size=32, num_classes=10, prior=None, stitch_width=None, compat={}).train()
    noise = Noise.from_generator(torch.Generator().manual_seed(0))
    measured = saved_bytes(network, lambda: network(torch.randn(64, 3, 32, 32), noise=noise), 64, half)
    assert circuit.circuit(CIRCUIT, 32, 10, count="model").saved.bytes(2 if half else 4) == pytest.approx(measured, rel=1 / 3)
