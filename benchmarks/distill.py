"""Speed of one m2mKD step of a V-MoE module against its lower bound.

The step: the hybrid network's logits with the student's and with the teacher's module, the loss of labels and teacher, and the gradients of
the student. The lower bound is the least work that gives the same gradients, as bare torch calls on the same weights: the meta
model's prefix once, the one teacher stage, the suffix forward for both and backward for the student, and the student module, which both
share (``benchmarks/moe.py`` is about its experts). Both must agree before they are timed.

``python benchmarks/distill.py --size small --threads 2`` times them in turn, in one process, and reports medians and their ratio. With
``--whole`` it adds a step of pure KD, the whole student taught by the whole teacher, against timm's task of distillation.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.config.published import published
from m2mkd.config.recipe import Distillation
from m2mkd.distill.hybrid import DistillationHybrid, freeze
from m2mkd.distill.losses import distillation_loss
from m2mkd.models.stage import Stage
from m2mkd.models.vit import StagedViT, build_stage
from m2mkd.models.vmoe import VMoE, build_vmoe_module

Size = StrEnum("Size", ["small", "base"])
Device = StrEnum("Device", ["cpu", "cuda"])
Precision = StrEnum("Precision", ["fp32", "bf16"])


class Networks(NamedTuple):
    """Meta model, teacher and student, with their data."""

    meta: ViTConfig
    teacher: ViTConfig
    student: VMoEConfig
    image_size: int
    num_classes: int


_SMALL = ViTConfig(patch_size=8, width=256, heads=4, depths=(1, 1, 1, 1))
_SMALL_STUDENT = VMoEConfig(patch_size=8, width=192, heads=3, depths=(2, 2, 2, 2), experts=4)


def networks(size: str) -> Networks:
    """``base``: as published (DeiT-Large, V-MoE-Base, ImageNet); ``small``: the same shape on 64 pixels, for a CPU."""
    if size == "base":
        meta, teacher, student = (published(name) for name in ("meta_large", "deit_large", "vmoe_base"))
        assert isinstance(meta, ViTConfig) and isinstance(teacher, ViTConfig) and isinstance(student, VMoEConfig)
        return Networks(meta, teacher, student, 224, 1000)
    return Networks(_SMALL, _SMALL.model_copy(update={"depths": (3, 3, 3, 3)}), _SMALL_STUDENT, 64, 100)


def bare(stage: Stage, config: ViTConfig) -> Callable[[Tensor], Tensor]:
    """A stage of a ViT as torch calls on its weights, without modules."""
    weights = dict(stage.named_parameters())
    blocks = len(stage.blocks)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], config.norm_eps)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def block(x: Tensor, name: str) -> Tensor:
        qkv = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").unflatten(2, (3, config.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"{name}.attn.proj")
        return x + linear(F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    def run(x: Tensor) -> Tensor:
        if stage.first:
            kernel, offset = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
            patches = F.conv2d(x, kernel, offset, stride=config.patch_size).flatten(2).transpose(1, 2)
            x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), patches], dim=1) + weights["pos_embed"]
        for number in range(blocks):
            x = block(x, f"blocks.{number}")
        return linear(norm(x[:, 0], "norm"), "head") if stage.last else x

    return run


class Steps(NamedTuple):
    """The two steps, each giving its loss and leaving gradients, and the student whose gradients they are."""

    hybrid: Callable[[], Tensor]
    bound: Callable[[], Tensor]
    student: torch.nn.Module


def steps(size: str, index: int, batch: int, device: str, precision: str) -> Steps:
    """Both steps of one module on the same weights and the same batch."""
    meta_config, teacher_config, student_config, image_size, classes = networks(size)
    torch.manual_seed(0)
    data: dict[str, Any] = {"image_size": image_size, "num_classes": classes}
    meta = StagedViT(meta_config, **data)
    teacher = build_stage(teacher_config, index, **data)
    student = build_vmoe_module(student_config, index, stitch_width=meta_config.width, **data)
    hybrid = DistillationHybrid(meta, index, student, teacher).train().to(device)
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    targets = torch.rand(batch, classes, device=device).softmax(dim=-1)
    distillation = Distillation(kind="soft")
    prefix = [bare(stage, meta_config) for stage in hybrid.prefix]  # type: ignore[arg-type]
    suffix = [bare(stage, meta_config) for stage in hybrid.suffix]  # type: ignore[arg-type]
    taught = bare(teacher, teacher_config)

    def cast() -> Any:
        return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()

    def hybrid_step() -> Tensor:
        student.zero_grad(set_to_none=True)
        with cast():
            logits = hybrid(images)
            loss = distillation_loss(logits.student, targets, logits.teacher, distillation, "batch").value
        loss.backward()
        return loss.detach()

    def bound_step() -> Tensor:
        student.zero_grad(set_to_none=True)
        with cast():
            with torch.no_grad():
                x = images
                for stage in prefix:
                    x = stage(x)
                teacher_logits = taught(x)
                for stage in suffix:
                    teacher_logits = stage(teacher_logits)
            logits = student(x)
            for stage in suffix:
                logits = stage(logits)
            hard = -(targets * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()
            own, given = ((y.float() / distillation.tau).log_softmax(dim=-1) for y in (logits, teacher_logits))
            soft = F.kl_div(own, given, reduction="batchmean", log_target=True) * distillation.tau**2
            loss = (1 - distillation.alpha) * hard + distillation.alpha * soft
        loss.backward()
        return loss.detach()

    return Steps(hybrid_step, bound_step, student)


def whole_steps(size: str, batch: int, device: str, precision: str) -> Steps:
    """Both steps of the whole student on the same weights and the same batch; the bound is timm's."""
    from timm.loss import SoftTargetCrossEntropy
    from timm.task.distillation import LogitDistillationTask

    _, teacher_config, student_config, image_size, classes = networks(size)
    torch.manual_seed(0)
    data: dict[str, Any] = {"image_size": image_size, "num_classes": classes}
    teacher, student = freeze(StagedViT(teacher_config, **data)).to(device), VMoE(student_config, **data).train().to(device)
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    targets = torch.rand(batch, classes, device=device).softmax(dim=-1)
    distillation = Distillation(kind="soft")
    # The teacher sees the images as the student does.
    teacher.pretrained_cfg = student.pretrained_cfg = cast(Any, {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    weights = {"task_loss_weight": 1 - distillation.alpha, "distill_loss_weight": distillation.alpha, "temperature": distillation.tau}
    task = LogitDistillationTask(student, teacher, SoftTargetCrossEntropy(), device=torch.device(device), verbose=False, **weights)

    def autocast() -> Any:
        return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()

    def own_step() -> Tensor:
        student.zero_grad(set_to_none=True)
        with autocast():
            with torch.no_grad():
                given = teacher(images)
            loss = distillation_loss(student(images), targets, given, distillation, "batch").value
        loss.backward()
        return loss.detach()

    def timm_step() -> Tensor:
        student.zero_grad(set_to_none=True)
        with autocast():
            loss = task(images, targets)["loss"]
        loss.backward()
        return loss.detach()

    return Steps(own_step, timm_step, student)


def check_agreement(both: Steps, precision: str) -> None:
    """Fail unless the two steps give the same loss and the same gradients, each to a share of its largest element."""
    tolerance = 0.1 if precision == "bf16" else 1e-3
    results = []
    for step in (both.hybrid, both.bound):
        loss = step()
        results.append([loss, *(parameter.grad.clone() for parameter in both.student.parameters() if parameter.grad is not None)])
    for ours, bound in zip(*results, strict=True):
        torch.testing.assert_close(ours, bound, rtol=0, atol=tolerance * bound.abs().max().item())


def timed(call: Callable[[], Tensor], device: str) -> float:
    """Seconds that a call takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(size: str, index: int | None, batch: int, device: str, precision: str, rounds: int) -> dict[str, Any]:
    """A row of the table: the medians, and the median over rounds of the ratio inside a round; no index stands for the whole student."""
    both = whole_steps(size, batch, device, precision) if index is None else steps(size, index, batch, device, precision)
    check_agreement(both, precision)
    calls = {"hybrid": both.hybrid, "bound": both.bound}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        # Turn about, so that neither always follows the other.
        for name in sorted(calls, reverse=bool(number % 2)):
            taken = timed(calls[name], device)
            if number:
                seconds[name].append(taken)
    medians = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["hybrid"], seconds["bound"], strict=True))
    settings = {"size": size, "module": index, "batch": batch, "device": device, "precision": precision, "rounds": rounds}
    return settings | medians | {"ratio": ratio}


def main(
    size: Annotated[Size, typer.Option(help="small for a CPU; base as published.")] = Size.small,
    module: Annotated[list[int], typer.Option(min=0, max=3, help="Module; may be repeated. [default: all]")] = [],  # noqa: B006
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch on the CPU.")] = 2,
    device: Annotated[Device, typer.Option()] = Device.cpu,
    precision: Annotated[Precision, typer.Option(help="bf16 means autocast.")] = Precision.fp32,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each.")] = 21,
    whole: Annotated[bool, typer.Option("--whole", help="Time the whole student too, against timm's distillation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Compare an m2mKD step with its lower bound, in turn and in one run."""
    torch.set_num_threads(threads)
    indices = [*(module or range(4)), *([None] if whole else [])]
    rows = [measure(str(size), index, batch, str(device), str(precision), rounds) for index in indices]
    if as_json:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count(), "threads": threads}
        json.dump({"machine": machine, "measurements": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    title = f"m2mKD step, {size}, batch {batch} on {device}, {precision}, {threads} threads, medians of {rounds} steps"
    table = Table("module", "lower bound (ms)", "hybrid (ms)", "hybrid / bound", title=title)
    for row in rows:
        times = (f"{1000 * row[f'{name}_seconds']:.1f}" for name in ("bound", "hybrid"))
        name = "whole (bound: timm)" if row["module"] is None else str(row["module"])
        table.add_row(name, *times, f"{row['ratio']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
