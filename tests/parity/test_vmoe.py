"""The staged ViT, the V-MoE, the hybrids and the transfer, against recordings of the released classes (specification vmoe.md 9)."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.data.mixup import Mixup
from torch import Tensor, nn

from m2mkd import upstream
from m2mkd.config.recipe import Distillation, Recipe
from m2mkd.data.stream import views
from m2mkd.distill.hybrid import DistillationHybrid, IncubationHybrid
from m2mkd.distill.losses import distillation_loss, kd_divergence, soft_cross_entropy
from m2mkd.distill.transfer import assemble, load_strictly
from m2mkd.models import vmoe
from m2mkd.models.moe import MoE
from m2mkd.models.names.vit import stage_sources
from m2mkd.models.vit import StagedViT, drop_path_rates, incubation_config
from m2mkd.training.optim import build_optimizer
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.description import Description
from m2mkd.upstream.network import build, convert
from tests.parity.released import key_list

TINY = {"image_size": 32, "num_classes": 10}
COMMON = {"img_size": 32, "patch_size": 8, "num_classes": 10, "mlp_ratio": 4, "qkv_bias": True, "ln_eps": 1e-6}
VIT = COMMON | {"embed_dim": 32, "num_heads": 4}
VMOE = COMMON | {"embed_dim": 24, "num_heads": 3, "num_expert": 8}
META, TEACHER = VIT | {"divided_depths": [1, 1, 1, 1]}, VIT | {"divided_depths": [2, 2, 2, 2]}
FULL = VMOE | {"divided_depths": [2, 2, 2, 2], "moe_pos": list(range(8))}
STITCHED = FULL | {"pre_stitch_pos": [2, 4, 6], "post_stitch_pos": [1, 3, 5], "stitch_dim": 32}
VMOES = {"vmoe_full": FULL, "vmoe_full_stitch": STITCHED, "vmoe_mixed_dense_moe": FULL | {"moe_pos": [1, 3, 5, 7]}}
MODULE = VMOE | {"divided_depths": [2], "moe_pos": [0, 1], "stitch_dim": 32}
MODULES = [
    MODULE | {"idx": 0, "post_stitch_pos": [1]},
    MODULE | {"idx": 1, "pre_stitch_pos": [0], "post_stitch_pos": [1]},
    MODULE | {"idx": 2, "pre_stitch_pos": [0], "post_stitch_pos": [1]},
    MODULE | {"idx": -1, "pre_stitch_pos": [0]},
]
NAMES = ["0", "1", "2", "m1"]
PRECISIONS = [pytest.param(torch.float64, ".f64", 1e-12, id="fp64"), pytest.param(torch.float32, "", 5e-6, id="fp32")]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recorded(fixtures_dir: Path) -> Mapping[str, np.ndarray]:
    return np.load(fixtures_dir / "vmoe" / "vmoe_fixtures.npz")


@pytest.fixture(scope="module")
def meta_json(fixtures_dir: Path) -> dict:
    return json.loads((fixtures_dir / "vmoe" / "meta.json").read_text())


@pytest.fixture(scope="module")
def states(fixtures_dir: Path) -> dict[str, dict[str, Tensor]]:
    return {path.stem: load_file(path) for path in (fixtures_dir / "vmoe").glob("*.safetensors")}


def close(ours: Tensor, theirs: np.ndarray | Tensor, tolerance: float) -> None:
    """Assert that the largest difference is small next to the largest value."""
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    difference = ((ours.detach() - theirs).abs().max() / theirs.abs().max()).item()
    assert difference <= tolerance


def module_description(index: int) -> Description:
    return describe_checkpoint("vmoe_module", MODULES[index], {})


def student_state(states: Mapping[str, Mapping[str, Tensor]], index: int) -> dict[str, Tensor]:
    return convert(module_description(index), states[f"vmoe_student_{NAMES[index]}"])


def hybrid(states: Mapping[str, Mapping[str, Tensor]], index: int, dtype: torch.dtype) -> DistillationHybrid:
    meta = upstream.load("vit", states["vit_meta"], META)
    teacher = upstream.load("vit", states["vit_teacher"], TEACHER | {"stage": index})
    student = upstream.load("vmoe_module", states[f"vmoe_student_{NAMES[index]}"], MODULES[index])
    return DistillationHybrid(meta.to(dtype), index, student.to(dtype), teacher.to(dtype)).train()


def stage_outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    outputs = [images]
    for stage in network.stages:
        outputs.append(stage(outputs[-1]))
    return outputs[1:]


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("name", "config"), [("vit_meta", META), ("vit_teacher", TEACHER)])
def test_vit_stages(recorded, states, name, config, dtype, suffix, tolerance):
    network = upstream.load("vit", states[name], config).to(dtype)
    images = torch.as_tensor(recorded["x"]).to(dtype)
    for stage, output in enumerate(stage_outputs(network, images)):
        close(output, recorded[f"{name}.stage{stage}.out{suffix}"], tolerance)
    close(network(images), recorded[f"{name}.logits{suffix}"], tolerance)


def check_vmoe(network: vmoe.VMoE, name: str, recorded, dtype: torch.dtype, suffix: str, tolerance: float) -> None:
    """Compare each block's output, each gate and the logits with the recording ``name``."""
    network = network.to(dtype).eval()
    images = torch.as_tensor(recorded["x"]).to(dtype)
    outputs: list[Tensor] = []
    inputs: list[tuple[MoE, Tensor]] = []
    for stage in network.stages:
        for place, block in enumerate(stage.blocks):
            # A recorded block output includes the stitch layer that follows.
            outer = stage.post_stitch if place == len(stage.blocks) - 1 else nn.Identity()
            block.register_forward_hook(lambda _, __, out, outer=outer: outputs.append(outer(out)))
            if isinstance(block.mlp, MoE):
                block.mlp.register_forward_hook(lambda layer, args, _: inputs.append((layer, args[0].flatten(end_dim=-2))))
    close(network(images), recorded[f"{name}.out{suffix}"], tolerance)

    assert len(outputs) == 8
    for i, output in enumerate(outputs):
        close(output, recorded[f"{name}.block{i}.out{suffix}"], tolerance)
    assert len(inputs) == len(vmoe.moe_positions(network.config))
    for i, (layer, tokens) in enumerate(inputs):
        close(layer.gate(tokens), recorded[f"{name}.moe{i}.gate_logits{suffix}"], tolerance)
        chosen, weights = layer.route(tokens)
        by_index = chosen.argsort(dim=-1)
        assert np.array_equal(chosen.gather(1, by_index), recorded[f"{name}.moe{i}.topk_idx_sorted{suffix}"])
        assert np.array_equal(layer.tokens_per_expert, recorded[f"{name}.moe{i}.tokens_per_expert{suffix}"])
        # The softmax turns the absolute error of logits, which are several units large, into a relative one.
        score_tolerance = tolerance if dtype == torch.float64 else 3 * tolerance
        close(weights.gather(1, by_index), recorded[f"{name}.moe{i}.topk_score_by_sorted_idx{suffix}"], score_tolerance)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", VMOES)
def test_vmoe_blocks_and_gates(recorded, states, name, dtype, suffix, tolerance):
    network = upstream.load("vmoe", states[name], VMOES[name])
    check_vmoe(network, name, recorded, dtype, suffix, tolerance)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("name", "config"), [("assembled_nostitch", FULL), ("assembled_stitch", STITCHED)])
def test_assembly(recorded, states, name, config, dtype, suffix, tolerance):
    network = build(describe_checkpoint("vmoe", config, {}))
    assemble({index: student_state(states, index) for index in range(4)}, network)
    check_vmoe(network, name, recorded, dtype, suffix, tolerance)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("index", range(4))
def test_m2mkd_losses(recorded, states, meta_json, index, dtype, suffix, tolerance):
    prefix = f"kd.{NAMES[index]}."
    images, targets = (torch.as_tensor(recorded[f"kd.{key}"]).to(dtype) for key in ("images", "soft_targets"))
    network = hybrid(states, index, dtype)
    student, teacher = network(images)
    close(student, recorded[f"{prefix}student_logits{suffix}"], tolerance)
    close(teacher, recorded[f"{prefix}teacher_logits{suffix}"], tolerance)
    close(network.student_logits(images), recorded[f"{prefix}student_logits{suffix}"], tolerance)
    if index:
        close(nn.Sequential(*network.prefix)(images), recorded[f"{prefix}meta_out{suffix}"], tolerance)

    close(soft_cross_entropy(student, targets), recorded[f"{prefix}ce{suffix}"], tolerance)
    close(kd_divergence(student, teacher, 1.0, "numel"), recorded[f"{prefix}kl_term{suffix}"], tolerance)
    close(kd_divergence(student, teacher, 1.0, "numel") * student.numel(), recorded[f"{prefix}kl_sum{suffix}"], tolerance)
    close(distillation_loss(student, targets, teacher, Distillation(), "numel").value, recorded[f"{prefix}loss{suffix}"], tolerance)

    values = meta_json["m2mkd"][NAMES[index]]
    assert kd_divergence(student, teacher, 1.0, "batch").item() == pytest.approx(values["kl_batchmean"], rel=tolerance)
    for key, distillation in {
        "loss_alpha0.9_tau3": Distillation(alpha=0.9, tau=3.0),
        "loss_hard_alpha0.5": Distillation(kind="hard"),
        "loss_none": Distillation(kind="none"),
    }.items():
        assert distillation_loss(student, targets, teacher, distillation, "numel").value.item() == pytest.approx(values[key], rel=tolerance)


@pytest.mark.parametrize("index", range(4))
def test_m2mkd_gradients(recorded, states, meta_json, index):
    """In double precision, as they were computed; they were stored in single."""
    images, targets = (torch.as_tensor(recorded[f"kd.{key}"]).double() for key in ("images", "soft_targets"))
    values = meta_json["m2mkd"][NAMES[index]]
    network = hybrid(states, index, torch.float64)

    def gradients(alpha: float) -> dict[str, Tensor]:
        network.zero_grad()
        student, teacher = network(images)
        distillation_loss(student, targets, teacher, Distillation(alpha=alpha), "numel").value.backward()
        assert all(parameter.grad is None for part in (network.prefix, network.suffix, network.teacher) for parameter in part.parameters())
        return {key: parameter.grad for key, parameter in network.student.named_parameters()}

    theirs = {
        key.removeprefix(f"{NAMES[index]}."): gradient
        for key, gradient in states["m2mkd_student_grads"].items()
        if key.startswith(f"{NAMES[index]}.")
    }
    theirs = convert(module_description(index), theirs)
    ours = gradients(0.5)
    assert ours.keys() == theirs.keys()
    for key, gradient in ours.items():
        close(gradient.float(), theirs[key], 1e-7)
    for alpha, key in [(0.5, "grad_norm_total"), (0.0, "grad_norm_alpha0"), (1.0, "grad_norm_alpha1")]:
        assert nn.utils.get_total_norm(gradients(alpha).values()).item() == pytest.approx(values[key], rel=1e-12)


def test_three_adamw_steps(recorded, states, meta_json):
    values = meta_json["adamw_3steps_student1"]
    images, targets = (torch.as_tensor(recorded[f"kd.{key}"]).double() for key in ("images", "soft_targets"))
    network = hybrid(states, 1, torch.float64)
    recipe = Recipe(epochs=1, batch_size=8, lr=values["lr"], lr_batch=None, weight_decay=values["wd"])
    optimizer = build_optimizer(network.student, recipe, network.student.no_weight_decay())
    assert all((group["betas"], group["eps"]) == (tuple(values["betas"]), values["eps"]) for group in optimizer.param_groups)
    losses = []
    for _ in range(4):
        student, teacher = network(images)
        loss = distillation_loss(student, targets, teacher, Distillation(), "numel").value
        losses.append(loss.item())
        if len(losses) <= 3:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses == pytest.approx([*values["losses"], values["loss_after"]], rel=1e-12)
    theirs = convert(module_description(1), states["student1_after_3_adamw"])
    ours = network.student.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        close(tensor.float(), theirs[key], 1e-6)


@pytest.mark.parametrize("index", range(4))
def test_incubation(recorded, states, meta_json, index):
    values = meta_json["mt"][str(index)]
    config = incubation_config(
        describe_checkpoint("vit", META, {}).architecture, describe_checkpoint("vit", TEACHER, {}).architecture, index
    )
    assert list(config.depths) == values["div"]
    network = StagedViT(config, **TINY)
    meta = upstream.load("vit", states["vit_meta"], META)
    for stage in {0, 1, 2, 3} - {index}:
        load_strictly(network.stages[stage], meta.stages[stage].state_dict(), f"meta {stage}")
    saved = {kind: strip(states["mt_target_params_grads"], f"{index}.{kind}.") for kind in ("param", "grad")}
    load_strictly(network.stages[index], saved["param"], f"target {index}")

    incubation = IncubationHybrid(network.double(), index).train()
    images, targets = (torch.as_tensor(recorded[f"kd.{key}"]).double() for key in ("images", "soft_targets"))
    logits = incubation(images)
    loss = soft_cross_entropy(logits, targets)
    close(logits, recorded[f"mt.{index}.logits.f64"], 1e-12)
    close(loss, recorded[f"mt.{index}.loss.f64"], 1e-12)
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in incubation.target.named_parameters()}
    assert gradients.keys() == saved["grad"].keys()
    for key, gradient in gradients.items():
        close(gradient.float(), saved["grad"][key], 1e-7)
    assert nn.utils.get_total_norm(gradients.values()).item() == pytest.approx(values["target_grad_norm"], rel=1e-12)
    assert all(parameter.grad is None for part in (incubation.prefix, incubation.suffix) for parameter in part.parameters())


@pytest.mark.parametrize("name", ["vmoe_student_0", "mt_stage0(plain Module)"])
def test_weight_decay_spares_what_it_did(states, meta_json, name):
    """Of a student the class token and positions too; of an incubated stage these decay, as switch ``position_decay`` has it."""
    student = name == "vmoe_student_0"
    module = build(module_description(0)) if student else upstream.load("vit", states["vit_teacher"], TEACHER | {"stage": 0})
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-3)
    optimizer = build_optimizer(module, recipe, module.no_weight_decay() if student else ())
    decayed = {id(parameter) for group in optimizer.param_groups if group["weight_decay"] for parameter in group["params"]}
    ours: dict[str, set[str]] = {"decay": set(), "no_decay": set()}
    for key, parameter in module.named_parameters():
        source = stage_sources(key, tuple(parameter.shape), 2, (0, 1) if student else ())[0]
        ours["decay" if id(parameter) in decayed else "no_decay"].update(source.names)
    theirs = meta_json["opt_groups"][name]
    assert ours == {group: {key.removeprefix("stages.0.") for key in theirs[group]} for group in ours}


def test_drop_path_rates(meta_json):
    """Of the network as it is built: a student alone, a hybrid, the whole."""
    for (_, rates), depth in zip(meta_json["dpr"].items(), (3, 9, 12), strict=True):
        assert drop_path_rates(0.1, depth) == pytest.approx(rates, abs=1e-8)


def test_mixup(recorded):
    """The mixed batch of the module recordings, from its images and labels."""
    images, labels = torch.as_tensor(recorded["kd.images_raw"]), torch.as_tensor(recorded["kd.labels"])
    mixup = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=10)
    kept = (recorded["kd.soft_targets"][0, labels[0]] - 0.01) / 0.9
    mixup._params_per_batch = lambda: (kept, False)
    mixed, targets = mixup(images, labels)
    close(mixed, recorded["kd.images"], 5e-6)
    close(targets, recorded["kd.soft_targets"], 5e-6)


@pytest.mark.parametrize("epoch", [0, 3])
def test_repeated_augmentation(recorded, epoch):
    """The released sampler deals the views of the epoch's permutation to its processes in turn (specification vmoe.md 4.1)."""
    dealt = recorded[f"rasampler.n1000.world4.epoch{epoch}"]
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(epoch)).numpy()
    samples, repeats = views(order, 3)
    assert np.array_equal(samples[: dealt.size].reshape(-1, len(dealt)).T, dealt)
    assert repeats[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]


def strip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def test_fused_experts_give_the_same(recorded, states):
    images, state = torch.as_tensor(recorded["x"]), states["vmoe_full"]
    fused = {key: tensor for key, tensor in state.items() if ".experts." not in key}
    for block in range(8):
        for layer in ("htoh4", "h4toh"):
            for kind in ("weight", "bias"):
                names = [f"stages.{block // 2}.blocks.{block % 2}.moe.experts.{expert}.{layer}.{kind}" for expert in range(8)]
                fused[f"stages.{block // 2}.blocks.{block % 2}.moe.experts.{layer}.{kind}"] = torch.cat([state[name] for name in names])
    assert torch.equal(upstream.load("vmoe", fused, FULL)(images), upstream.load("vmoe", state, FULL)(images))


def test_each_half_of_the_names_suffices(recorded, states):
    images = torch.as_tensor(recorded["x"])
    for name, kind, config in (("vit_teacher", "vit", TEACHER), ("vmoe_full_stitch", "vmoe", STITCHED)):
        staged = {key: tensor for key, tensor in states[name].items() if key.startswith("stages.")}
        flat = {key: tensor for key, tensor in states[name].items() if key not in staged}
        whole = upstream.load(kind, states[name], config)(images)
        assert len(staged) == len(flat)
        assert torch.equal(upstream.load(kind, staged, config)(images), whole)
        assert torch.equal(upstream.load(kind, flat, config)(images), whole)


# Full size, on the meta device

LARGE = {"model_name": "vit_large_patch16_224"}
HUGE = {"model_name": "vit_huge_patch14_224"}
BASE_MODULE = {"model_name": "vmoe_base", "divided_depths": [3], "moe_pos": [0, 1, 2], "stitch_dim": 1024}
FULL_SIZE = {
    "deit_large": ("vit", LARGE | {"divided_depths": [6, 6, 6, 6]}),
    "deit_huge": ("vit", HUGE | {"divided_depths": [4, *[3] * 8, 4]}),
    "deit_base": ("vit", {"model_name": "vit_base", "divided_depths": [3, 3, 3, 3]}),
    "meta_large": ("vit", LARGE | {"divided_depths": [1] * 4}),
    "meta_huge": ("vit", HUGE | {"divided_depths": [1] * 10}),
    "mt_large_0": ("vit", LARGE | {"divided_depths": [6, 1, 1, 1]}),
    "vmoe_base": ("vmoe", {"model_name": "vmoe_base", "divided_depths": [3, 3, 3, 3]}),
    "vmoe_base_stitch": (
        "vmoe",
        {
            "model_name": "vmoe_base",
            "divided_depths": [3, 3, 3, 3],
            "pre_stitch_pos": [3, 6, 9],
            "post_stitch_pos": [2, 5, 8],
            "stitch_dim": 1024,
        },
    ),
    "vmoe_base_every2": ("vmoe", {"model_name": "vmoe_base", "divided_depths": [3, 3, 3, 3], "moe_pos": [1, 3, 5, 7, 9, 11]}),
    "vmoe_small_384x12": ("vmoe", {"embed_dim": 384, "num_heads": 6, "divided_depths": [3, 3, 3, 3]}),
    "vmoe_small_512x8": ("vmoe", {"embed_dim": 512, "num_heads": 8, "divided_depths": [2, 2, 2, 2]}),
    "vmoe_student_0": ("vmoe_module", BASE_MODULE | {"idx": 0, "post_stitch_pos": [2]}),
    "vmoe_student_1": ("vmoe_module", BASE_MODULE | {"idx": 1, "pre_stitch_pos": [0], "post_stitch_pos": [2]}),
    "vmoe_student_2": ("vmoe_module", BASE_MODULE | {"idx": 2, "pre_stitch_pos": [0], "post_stitch_pos": [2]}),
    "vmoe_student_m1": ("vmoe_module", BASE_MODULE | {"idx": -1, "pre_stitch_pos": [0]}),
}
LISTED = sorted(FULL_SIZE.keys() - {"mt_large_0", "vmoe_base_every2", "vmoe_small_384x12", "vmoe_small_512x8", "vmoe_student_2"})


def full_size(name: str) -> nn.Module:
    kind, config = FULL_SIZE[name]
    with torch.device("meta"):
        return build(describe_checkpoint(kind, config, {}))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", FULL_SIZE)
def test_parameter_counts(fixtures_dir, name):
    module = full_size(name)
    counts = json.loads((fixtures_dir / "vmoe" / "keys" / "counts.json").read_text())[name.replace("student_2", "student_1")]
    assert parameters(module) == counts["params"]
    stages = module.stages if hasattr(module, "stages") else [module]
    assert [parameters(stage) for stage in stages] == counts["stages"]


@pytest.mark.parametrize("name", LISTED)
def test_keys_at_full_size(fixtures_dir, name):
    """The released names and shapes give exactly ours, also with fused experts, and also where the configuration leaves the stages open."""
    kind, config = FULL_SIZE[name]
    released = key_list(fixtures_dir, name)
    ours = shapes(full_size(name).state_dict())
    assert shapes(convert(describe_checkpoint(kind, config, {}), released)) == ours
    if kind != "vit":
        assert shapes(convert(describe_checkpoint(kind, config, {}), fused(released, 8))) == ours
    told = {"divided_depths", "moe_pos", "pre_stitch_pos", "post_stitch_pos", "stitch_dim"}
    open_config = {key: value for key, value in config.items() if key not in told}
    assert shapes(convert(describe_checkpoint(kind, open_config, shapes(released)), released)) == ours


def fused(released: Mapping[str, Tensor], experts: int) -> dict[str, Tensor]:
    """The same state with the experts of a layer in one tensor."""
    joined = {}
    for key, tensor in released.items():
        head, experts_part, tail = key.partition(".experts.")
        if not experts_part:
            joined[key] = tensor
        elif tail.startswith("0."):
            joined[f"{head}.experts.{tail[2:]}"] = tensor.expand(experts, *tensor.shape[1:])
    return joined


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
