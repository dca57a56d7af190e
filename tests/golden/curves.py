"""Short trainings of every phase and family from fixed seeds, and the losses that they come to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from m2mkd.config import load
from m2mkd.data.pack import Split
from m2mkd.models.vit import StagedViT
from m2mkd.models.weights import stage_state, stages_of
from m2mkd.seeds import forked_rng
from m2mkd.study.phase import CURVES, Phase
from m2mkd.study.plan import build_study
from m2mkd.training.job import Job, hardware
from m2mkd.training.machine import Machine
from m2mkd.training.phases import assemble_teacher, common, distill_module, incubate_module, train_probe
from m2mkd.training.update import Task

Curve = dict[str, list[float]]
"""``loss`` of each epoch, its mean over the updates, and ``val_loss`` after it."""

CASES = (
    "pretrain_meta/vit",
    "incubate_module/vit",
    "assemble_teacher/vit",
    "distill_module/vmoe",
    "distill_module/nac",
    "train_student/vmoe",
    "train_student/nac",
    "train_probe/vmoe",
)
"""Phase and family, each after those whose weights it needs."""
MODULE = 1
"""The module that is incubated and distilled: neither the first nor the last."""
RECIPES = (
    "pretrain_meta",
    "incubate_module",
    "assemble_teacher",
    "distill_module",
    "vmoe_end_to_end_100",
    "nac_tiny_imagenet",
    "probe_vmoe",
)
SHORT = {"epochs": 4, "batch_size": 8, "train_share": 1.0, "eval_every": 1, "warmup_epochs": 1, "drop_path": 0.2, "lr": 3e-3}
CLASSES = 10

Weights = dict[str, Tensor]


def exact_on() -> str:
    """What bit equality is promised for: one torch version, one capability of the CPU, and one model of it."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {hardware()}"


def configurations() -> dict[str, Phase]:
    """One run of each case, at the sizes of the smoke test."""
    overrides = {"recipes": dict.fromkeys(RECIPES, SHORT), "models": {"vmoe_base": {"depths": [2, 2, 1, 1]}}}
    found: dict[str, Phase] = {}
    for run in build_study(load.settings({"scale": "smoke", "overrides": overrides})).runs.values():
        config: Any = run.config
        plain = config.init == "scratch" and config.teacher is None if run.phase == "train_student" else True
        if plain and getattr(config, "index", MODULE) == MODULE:
            found.setdefault(f"{run.phase}/{config.student.family if hasattr(config, 'student') else 'vit'}", config)
    return {case: found[case] for case in CASES}


def compute_curves(folder: Path, dtype: torch.dtype) -> dict[str, Curve]:
    """Run every case in ``folder`` on one thread, each on what those before it have trained."""
    trained: dict[str, Weights] = {}
    with pytest.MonkeyPatch.context() as patch, _reproducible(dtype):
        _stand_in(patch, dtype, trained)
        return {case: _curve(case, config, folder / case, trained) for case, config in configurations().items()}


@contextmanager
def _reproducible(dtype: torch.dtype) -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def _curve(case: str, config: Any, work: Path, trained: dict[str, Weights]) -> Curve:
    machine = Machine(torch.device("cpu"))
    upstream = {role: (Path(role),) for role in ("meta", "teacher_module", "student", "modules")}
    outcome = import_module(f"m2mkd.training.phases.{config.phase}").run(Job(config, 0, upstream, work, lambda: machine, case))
    if config.phase == "incubate_module":
        with forked_rng("other modules"):
            others = StagedViT(config.model, image_size=config.data.image_size, num_classes=config.data.classes).state_dict()
        trained["modules"] = others | {f"stages.{MODULE}.{name}": tensor for name, tensor in outcome.weights.items()}
    elif case.partition("/")[0] in ("pretrain_meta", "assemble_teacher"):
        trained["meta" if config.phase == "pretrain_meta" else "teacher"] = outcome.weights
    elif case == "train_student/vmoe":
        trained["student"] = outcome.weights
    lines = [json.loads(line) for line in (work / CURVES).read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in ("loss", "val_loss")}


def _stand_in(patch: pytest.MonkeyPatch, dtype: torch.dtype, trained: dict[str, Weights]) -> None:
    """Images of noise in the place of the data sets, weights from memory, and networks that take the images in ``dtype``."""

    def images(data: Any, of_each_class: int) -> SimpleNamespace:
        labels = np.arange(of_each_class * CLASSES) % CLASSES
        pixels = np.random.default_rng(0).integers(0, 256, (len(labels), data.image_size, data.image_size, 3), dtype=np.uint8)
        return SimpleNamespace(split=lambda _: Split(pixels, labels), classes=range(CLASSES))

    def load_weights(folder: Path) -> Weights:
        return stage_state(trained["teacher"], MODULE) if folder.name == "teacher_module" else trained[folder.name]

    fit = common.fit
    patch.setattr(common, "fit", lambda trainees, *rest: fit([replace(each, task=_taking(each.task, dtype)) for each in trainees], *rest))
    patch.setattr(common, "open_data", lambda data: images(data, 2))
    patch.setattr(train_probe, "open_data", lambda data: images(data, 6))
    for phase in (incubate_module, distill_module, train_probe):
        patch.setattr(phase, "load_weights", load_weights)
    patch.setattr(assemble_teacher, "load_modules", lambda *_: stages_of(trained["modules"]))


def _taking(task: Task, dtype: torch.dtype) -> Task:
    if dtype == torch.float32:
        return task
    predict = task.predictor() if task.predictor else task.predict
    return replace(
        task,
        loss=lambda images, targets, noise: task.loss(images.to(dtype), targets.to(dtype), noise),
        predict=lambda images: predict(images.to(dtype)),
        predictor=None,
        diagnose=None,
    )
