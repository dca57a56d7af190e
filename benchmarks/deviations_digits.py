"""Effects of the compat switches that need trained networks: the V-MoE and the NAC of scale small, on the handwritten digits."""

import statistics
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from deviations_models import Effect, both
from torch import nn

from m2mkd.config import load
from m2mkd.config.models import Model
from m2mkd.config.recipe import Recipe
from m2mkd.data.fewshot import episode
from m2mkd.data.pack import Pack, Split, open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.transforms import normalised
from m2mkd.evaluation.ood import measure_masked
from m2mkd.families.build import build_student, evaluation, noise_arguments
from m2mkd.seeds import forked_rng
from m2mkd.training.optim import LearningRate

CPU = torch.device("cpu")
SCRATCH = TemporaryDirectory()
SIDE, WAY, SHOTS, EPISODES = 32, 5, 4, 20
SMALL = load.catalogue(load.scale("small", {}))


@cache
def pack(name: str) -> Pack:
    """A data set of digits, prepared in a folder that goes with the process."""
    folder = Path(SCRATCH.name) / name
    prepare(name, load.datasets()[name], SIDE, folder, processes=1)
    return open_pack(folder)


@cache
def digits() -> tuple[Split, Split]:
    """Training and validation digits, 32 px."""
    return pack("digits").split("train"), pack("digits").split("val")


def trained(model: str, compat: dict[str, Any], classes: range, steps: int) -> tuple[nn.Module, Model, list[float]]:
    """A student after AdamW on those classes, with the norms of its gradients, which are clipped as the recipe says."""
    config, recipe = SMALL.models[model], SMALL.recipes["vmoe_finetune"]
    prior: Any = "scale_free" if config.family == "nac" else None
    with forked_rng("student", model):
        student = build_student(  # type: ignore[arg-type]
            config, image_size=SIDE, num_classes=10, prior=prior, stitch_width=None, drop_path=recipe.drop_path, compat=compat
        )
    split = digits()[0]
    chosen = np.flatnonzero(np.isin(split.labels, classes))
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.peak_lr, weight_decay=recipe.weight_decay)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, rng, norms = torch.Generator().manual_seed(0), np.random.default_rng(0), []
    student.train()
    for _ in range(steps):
        batch = rng.choice(chosen, recipe.batch_size, replace=False)
        logits = student(normalised(np.array(split.images[batch])), **noise_arguments(config, generator))  # type: ignore[arg-type]
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.from_numpy(split.labels[batch])).backward()
        norms.append(nn.utils.clip_grad_norm_(student.parameters(), recipe.clip_norm or torch.inf).item())
        optimizer.step()
        rate.step()
    return student.eval(), config, norms


@cache
def vmoe(classes: range) -> tuple[nn.Module, Model, list[float]]:
    """The V-MoE of scale small."""
    return trained("vmoe_base", {}, classes, 500)


def eval_noise() -> Effect:
    """Spread of a NAC's accuracy over draws of the noise (N14)."""
    student, config, _ = trained("nac_tiny_imagenet", {}, range(10), 400)
    images = normalised(np.array(digits()[1].images))
    labels = torch.from_numpy(digits()[1].labels)

    @torch.no_grad()
    def measured(compat: dict[str, Any]) -> str:
        answers = torch.stack([evaluation(student, config, compat, seed)(images).argmax(1) for seed in range(20)])  # type: ignore[arg-type]
        accuracies = [100 * (answer == labels).double().mean().item() for answer in answers]
        changed = 100 * (answers[1:] != answers[:-1]).double().mean().item()
        return f"{statistics.mean(accuracies):.1f} +- {statistics.pstdev(accuracies):.2f} %; {changed:.1f} % change"

    entry = load.switches()["eval_noise"]
    what = "top-1 of the small NAC on 359 digits, mean and deviation over 20 evaluations; answers that change from one to the next"
    return Effect(what, *(measured({"eval_noise": value}) for value in (entry.released, entry.corrected)))


def clip_in_fp32() -> Effect:
    """Steps in which the clip acts, if it is not ignored (V24)."""
    _, _, norms = vmoe(range(WAY))
    clip = SMALL.recipes["vmoe_finetune"].clip_norm or torch.inf
    share = 100 * statistics.mean(norm > clip for norm in norms)
    return both(
        "clip_in_fp32",
        f"updates of {len(norms)} of the small V-MoE on digits, in fp32, whose gradient is clipped to {clip:g}",
        lambda compat: 0.0 if compat["clip_in_fp32"] == "ignored" else share,
        "{:.0f} %",
    )


def ood_mask() -> Effect:
    """Top-1 on a set of six of ten classes (V6)."""
    student, _, _ = vmoe(range(10))

    def top1(compat: dict[str, Any]) -> float:
        classes = tuple("0123456789")
        return 100 * measure_masked(student, pack("digits-r"), classes, 256, CPU, masked=compat["ood_mask"] == "applied")["top1"]

    return both("ood_mask", "top-1 of the small V-MoE on digits-r, 6 of its 10 classes", top1, "{:.1f} %")


@cache
def probe_curves(from_train: bool, in_training: bool) -> list[list[float]]:
    """Top-1 in percent after each epoch of linear probes, on episodes of the digits that the V-MoE has not seen.

    ``from_train``: validation images come from the training split. ``in_training``: the frozen part is in training mode.
    """
    recipe, (student, _, _) = SMALL.recipes["probe_vmoe"], vmoe(range(WAY))
    student.stages[-1].head = nn.Identity()  # type: ignore[union-attr,index]
    return [curve_of(student, recipe, seed, from_train, in_training) for seed in range(1, EPISODES + 1)]


def curve_of(features: nn.Module, recipe: Recipe, seed: int, from_train: bool, in_training: bool) -> list[float]:
    """One episode; ``features`` is the student without its head."""
    train, val = (split.take(np.flatnonzero(split.labels >= WAY)) for split in digits())
    drawn = episode(train, val, WAY, SHOTS, seed, "train" if from_train else "test")
    shots, measured = drawn.subset(train, drawn.train), drawn.subset(train if from_train else val, drawn.val)
    with forked_rng("probe", seed), torch.no_grad():
        head = nn.Linear(SMALL.models["vmoe_base"].width, WAY)  # type: ignore[union-attr]
        still, held_out = (features.eval()(normalised(split.images)) for split in (shots, measured))
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.peak_lr, weight_decay=recipe.weight_decay)
    rate, curve = LearningRate(optimizer, recipe, 1), []
    features.train(in_training)
    for epoch in range(recipe.epochs):
        rate.set(epoch, 0)
        with forked_rng("drop path", seed, epoch), torch.no_grad():
            seen = features(normalised(shots.images)) if in_training else still
        optimizer.zero_grad()
        F.cross_entropy(head(seen), torch.from_numpy(shots.labels)).backward()
        optimizer.step()
        answers = head(held_out).argmax(1)
        curve.append(100 * (answers == torch.from_numpy(measured.labels)).double().mean().item())
    return curve


def probe_effect(switch: str, released: list[list[float]], what: str = "", best: bool = False) -> Effect:
    """Mean over the episodes of what a probe reports: its last epoch, or as released its best if ``best``."""
    reported = [max(curve) if best else curve[-1] for curve in released]
    corrected = [curve[-1] for curve in probe_curves(False, False)]
    measured = f"few-shot top-1 of the small V-MoE, {EPISODES} episodes of {WAY} unseen digits, {SHOTS} shots{what}"
    return both(switch, measured, lambda compat: statistics.mean(corrected if compat == corrected_value(switch) else reported), "{:.1f} %")


def corrected_value(switch: str) -> dict[str, Any]:
    """The corrected value of a switch, as a compat dictionary."""
    return {switch: load.switches()[switch].corrected}


def probe_val_split() -> Effect:
    """Shots among the validation images (V4)."""
    return probe_effect("probe_val_split", probe_curves(True, False))


def probe_report() -> Effect:
    """Best epoch or last (V26)."""
    return probe_effect("probe_report", probe_curves(False, False), best=True)


def probe_backbone() -> Effect:
    """Features in training mode (V26)."""
    return probe_effect("probe_backbone", probe_curves(False, True), f", drop path {SMALL.recipes['vmoe_finetune'].drop_path:g}")


TRAINED = (eval_noise, ood_mask, clip_in_fp32, probe_val_split, probe_report, probe_backbone)
