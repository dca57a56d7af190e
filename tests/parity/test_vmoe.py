"""The staged ViT, the V-MoE, the hybrids and the transfer, against recordings of the released classes (specification vmoe.md 9)."""

import csv
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from m2mkd.config.models import ViT, VMoE
from m2mkd.config.recipe import Distillation
from m2mkd.distill.hybrid import DistillationHybrid, IncubationHybrid
from m2mkd.distill.losses import distillation_loss, kd_divergence, soft_cross_entropy
from m2mkd.distill.transfer import assemble, load_strictly
from m2mkd.errors import InputError
from m2mkd.models import vmoe
from m2mkd.models.moe import MoE
from m2mkd.models.vit import StagedViT, build_stage, incubation_config
from m2mkd.upstream.vmoe import split_stages, vit_state_dict, vmoe_stage_state_dict, vmoe_state_dict

TINY = {"image_size": 32, "num_classes": 10}
META = ViT(patch_size=8, width=32, heads=4, depths=(1, 1, 1, 1))
TEACHER = META.model_copy(update={"depths": (2, 2, 2, 2)})
STUDENT = VMoE(patch_size=8, width=24, heads=3, depths=(2, 2, 2, 2))
STITCHED = STUDENT.model_copy(update={"stitch": "kept"})
VMOES = {"vmoe_full": STUDENT, "vmoe_full_stitch": STITCHED, "vmoe_mixed_dense_moe": STUDENT.model_copy(update={"moe_blocks": "every_2"})}
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


def vit(config: ViT, state: Mapping[str, Tensor], dtype: torch.dtype) -> StagedViT:
    network = StagedViT(config, **TINY)
    network.load_state_dict(vit_state_dict(state))
    return network.to(dtype).eval()


def student_module(states: Mapping[str, Mapping[str, Tensor]], index: int, dtype: torch.dtype) -> nn.Module:
    module = vmoe.build_vmoe_module(STUDENT, index, stitch_width=32, **TINY)
    load_strictly(module, student_state(states, index), f"student {index}")
    return module.to(dtype).eval()


def student_state(states: Mapping[str, Mapping[str, Tensor]], index: int) -> dict[str, Tensor]:
    return vmoe_stage_state_dict(split_stages(states[f"vmoe_student_{NAMES[index]}"])[0])


def hybrid(states: Mapping[str, Mapping[str, Tensor]], index: int, dtype: torch.dtype) -> DistillationHybrid:
    teacher = build_stage(TEACHER, index, **TINY)
    load_strictly(teacher, split_stages(states["vit_teacher"])[index], f"teacher {index}")
    meta = vit(META, states["vit_meta"], dtype)
    return DistillationHybrid(meta, index, student_module(states, index, dtype), teacher.to(dtype)).train()


def stage_outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    outputs = [images]
    for stage in network.stages:
        outputs.append(stage(outputs[-1]))
    return outputs[1:]


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("name", "config"), [("vit_meta", META), ("vit_teacher", TEACHER)])
def test_vit_stages(recorded, states, name, config, dtype, suffix, tolerance):
    network = vit(config, states[name], dtype)
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
    network = vmoe.VMoE(VMOES[name], stitch_width=32, **TINY)
    network.load_state_dict(vmoe_state_dict(states[name]))
    check_vmoe(network, name, recorded, dtype, suffix, tolerance)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("name", "config"), [("assembled_nostitch", STUDENT), ("assembled_stitch", STITCHED)])
def test_assembly(recorded, states, name, config, dtype, suffix, tolerance):
    network = vmoe.VMoE(config, stitch_width=32, **TINY)
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
    close(distillation_loss(student, targets, teacher, Distillation(), "numel"), recorded[f"{prefix}loss{suffix}"], tolerance)

    values = meta_json["m2mkd"][NAMES[index]]
    assert kd_divergence(student, teacher, 1.0, "batch").item() == pytest.approx(values["kl_batchmean"], rel=tolerance)
    for key, distillation in {
        "loss_alpha0.9_tau3": Distillation(alpha=0.9, tau=3.0),
        "loss_hard_alpha0.5": Distillation(kind="hard"),
        "loss_none": Distillation(kind="none"),
    }.items():
        assert distillation_loss(student, targets, teacher, distillation, "numel").item() == pytest.approx(values[key], rel=tolerance)


@pytest.mark.parametrize("index", range(4))
def test_m2mkd_gradients(recorded, states, meta_json, index):
    """In double precision, as they were computed; they were stored in single."""
    images, targets = (torch.as_tensor(recorded[f"kd.{key}"]).double() for key in ("images", "soft_targets"))
    values = meta_json["m2mkd"][NAMES[index]]
    network = hybrid(states, index, torch.float64)

    def gradients(alpha: float) -> dict[str, Tensor]:
        network.zero_grad()
        student, teacher = network(images)
        distillation_loss(student, targets, teacher, Distillation(alpha=alpha), "numel").backward()
        assert all(parameter.grad is None for part in (network.prefix, network.suffix, network.teacher) for parameter in part.parameters())
        return {key: parameter.grad for key, parameter in network.student.named_parameters()}

    theirs = {
        key.removeprefix(f"{NAMES[index]}.").removeprefix("stages.0."): gradient
        for key, gradient in states["m2mkd_student_grads"].items()
        if key.startswith(f"{NAMES[index]}.")
    }
    theirs = vmoe_stage_state_dict(theirs)
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
    groups = param_groups_weight_decay(network.student, values["wd"], no_weight_decay_list=network.student.no_weight_decay())
    optimizer = torch.optim.AdamW(groups, lr=values["lr"], betas=tuple(values["betas"]), eps=values["eps"])
    losses = []
    for _ in range(4):
        student, teacher = network(images)
        loss = distillation_loss(student, targets, teacher, Distillation(), "numel")
        losses.append(loss.item())
        if len(losses) <= 3:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses == pytest.approx([*values["losses"], values["loss_after"]], rel=1e-12)
    theirs = vmoe_stage_state_dict(split_stages(states["student1_after_3_adamw"])[0])
    ours = network.student.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        close(tensor.float(), theirs[key], 1e-6)


@pytest.mark.parametrize("index", range(4))
def test_incubation(recorded, states, meta_json, index):
    values = meta_json["mt"][str(index)]
    config = incubation_config(META, TEACHER, index)
    assert list(config.depths) == values["div"]
    network = StagedViT(config, **TINY)
    meta = split_stages(states["vit_meta"])
    for stage in {0, 1, 2, 3} - {index}:
        load_strictly(network.stages[stage], meta[stage], f"meta {stage}")
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


def strip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def test_fused_experts_are_accepted(states):
    released = split_stages(states["vmoe_student_1"])[0]
    fused = {key: tensor for key, tensor in released.items() if ".experts." not in key}
    for block in (0, 1):
        for layer in ("htoh4", "h4toh"):
            for kind in ("weight", "bias"):
                names = [f"blocks.{block}.moe.experts.{expert}.{layer}.{kind}" for expert in range(8)]
                fused[f"blocks.{block}.moe.experts.{layer}.{kind}"] = torch.cat([released[name] for name in names])
    ours, theirs = vmoe_stage_state_dict(fused), vmoe_stage_state_dict(released)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_unreadable_checkpoints_are_refused(states):
    released = split_stages(states["vmoe_student_1"])[0]
    with pytest.raises(InputError, match="some are missing"):
        vmoe_stage_state_dict({key: tensor for key, tensor in released.items() if ".experts.3." not in key})
    inside = {key.replace("blocks.0.pre_stitch", "blocks.1.pre_stitch"): tensor for key, tensor in released.items()}
    with pytest.raises(InputError, match=r"blocks\.1\.pre_stitch\.\S+ inside a stage"):
        vmoe_stage_state_dict(inside)
    with pytest.raises(InputError, match="stages"):
        vit_state_dict(released)


# Full size, on the meta device

LARGE = ViT(patch_size=16, width=1024, heads=16, depths=(6, 6, 6, 6))
HUGE = ViT(patch_size=14, width=1280, heads=16, depths=(4, *[3] * 8, 4), qkv_bias=False, norm_eps=1e-5)
BASE = ViT(patch_size=16, width=768, heads=12, depths=(3, 3, 3, 3))
VMOE_BASE = VMoE(patch_size=16, width=768, heads=12, depths=(3, 3, 3, 3))
FULL = {"image_size": 224, "num_classes": 1000}


def full_size(name: str) -> nn.Module:
    kept = VMOE_BASE.model_copy(update={"stitch": "kept"})
    builders = {
        "deit_large": lambda: StagedViT(LARGE, **FULL),
        "deit_huge": lambda: StagedViT(HUGE, **FULL),
        "deit_base": lambda: StagedViT(BASE, **FULL),
        "meta_large": lambda: StagedViT(LARGE.model_copy(update={"depths": (1,) * 4}), **FULL),
        "meta_huge": lambda: StagedViT(HUGE.model_copy(update={"depths": (1,) * 10}), **FULL),
        "mt_large_0": lambda: StagedViT(incubation_config(LARGE.model_copy(update={"depths": (1,) * 4}), LARGE, 0), **FULL),
        "vmoe_base": lambda: vmoe.VMoE(VMOE_BASE, **FULL),
        "vmoe_base_stitch": lambda: vmoe.VMoE(kept, stitch_width=1024, **FULL),
        "vmoe_base_every2": lambda: vmoe.VMoE(VMOE_BASE.model_copy(update={"moe_blocks": "every_2"}), **FULL),
        "vmoe_student_0": lambda: vmoe.build_vmoe_module(VMOE_BASE, 0, stitch_width=1024, **FULL),
        "vmoe_student_1": lambda: vmoe.build_vmoe_module(VMOE_BASE, 1, stitch_width=1024, **FULL),
        "vmoe_student_2": lambda: vmoe.build_vmoe_module(VMOE_BASE, 2, stitch_width=1024, **FULL),
        "vmoe_student_m1": lambda: vmoe.build_vmoe_module(VMOE_BASE, 3, stitch_width=1024, **FULL),
    }
    with torch.device("meta"):
        return builders[name]()


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deit_large", 304_326_632),
        ("deit_huge", 631_922_920),
        ("deit_base", 86_567_656),
        ("meta_large", 52_402_152),
        ("meta_huge", 199_103_720),
        ("mt_large_0", 115_383_272),
        ("vmoe_base", 483_325_768),
        ("vmoe_base_stitch", 488_060_488),
        ("vmoe_base_every2", 284_946_712),
        ("vmoe_student_0", 121_984_792),
        ("vmoe_student_1", 122_031_384),
        ("vmoe_student_2", 122_031_384),
        ("vmoe_student_m1", 122_012_928),
    ],
)
def test_parameter_counts(fixtures_dir, name, expected):
    module = full_size(name)
    assert parameters(module) == expected
    counts = json.loads((fixtures_dir / "vmoe" / "keys" / "counts.json").read_text())
    if name in counts:
        stages = module.stages if hasattr(module, "stages") else [module]
        assert [parameters(stage) for stage in stages] == counts[name]["stages"]


@pytest.mark.parametrize("name", ["deit_base", "deit_huge", "deit_large", "meta_huge", "meta_large", "vmoe_base", "vmoe_base_stitch"])
def test_keys_of_networks(fixtures_dir, name):
    adapt = vmoe_state_dict if "vmoe" in name else vit_state_dict
    assert shapes(full_size(name).state_dict()) == shapes(adapt(key_list(fixtures_dir, name)))


@pytest.mark.parametrize("name", ["vmoe_student_0", "vmoe_student_1", "vmoe_student_m1"])
def test_keys_of_students(fixtures_dir, name):
    assert shapes(full_size(name).state_dict()) == shapes(vmoe_stage_state_dict(split_stages(key_list(fixtures_dir, name))[0]))


def key_list(fixtures_dir: Path, name: str) -> dict[str, Tensor]:
    with gzip.open(fixtures_dir / "vmoe" / "keys" / f"{name}.tsv.gz", "rt") as file:
        return {key: torch.empty(json.loads(f"[{shape.strip('(),')}]"), device="meta") for key, shape in csv.reader(file, delimiter="\t")}


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
