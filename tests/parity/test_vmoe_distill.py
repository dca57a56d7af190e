"""The hybrids, their losses, and what trains them, against recordings of the released classes (specification vmoe.md 9)."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from torch import Tensor, nn

from m2mkd import upstream
from m2mkd.config.recipe import Distillation, Recipe
from m2mkd.data.draws import views
from m2mkd.distill.hybrid import DistillationHybrid, IncubationHybrid
from m2mkd.distill.losses import distillation_loss, kd_divergence, soft_cross_entropy
from m2mkd.distill.transfer import load_strictly
from m2mkd.models.names.vit import stage_sources
from m2mkd.models.vit import StagedViT, drop_path_rates, incubation_config
from m2mkd.training.optim import build_optimizer
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.network import build, convert
from tests.parity.vmoe import META, MODULES, NAMES, PRECISIONS, TEACHER, close, module_description

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"image_size": 32, "num_classes": 10}


def hybrid(states: Mapping[str, Mapping[str, Tensor]], index: int, dtype: torch.dtype) -> DistillationHybrid:
    meta = upstream.load("vit", states["vit_meta"], META)
    teacher = upstream.load("vit", states["vit_teacher"], TEACHER | {"stage": index})
    student = upstream.load("vmoe_module", states[f"vmoe_student_{NAMES[index]}"], MODULES[index])
    return DistillationHybrid(meta.to(dtype), index, student.to(dtype), teacher.to(dtype)).train()


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
