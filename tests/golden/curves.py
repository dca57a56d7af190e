"""Short trainings of every phase and family from fixed seeds, and the losses that they come to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from m2mkd.config import load
from m2mkd.models.vit import StagedViT
from m2mkd.models.weights import stage_state, stages_of
from m2mkd.seeds import forked_rng
from m2mkd.study.data import Data
from m2mkd.study.phase import CURVES, Phase
from m2mkd.study.plan import build_study
from m2mkd.training.job import Job, hardware
from m2mkd.training.machine import Machine
from m2mkd.training.phases import common
from m2mkd.training.task import Task
from tests.tiny import TinyPack, noise
from tests.wiring import MemoryStore, run_phase

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
    "distill_nac_module",
    "vmoe_end_to_end_100",
    "nac_tiny_imagenet",
    "nac_tiny_imagenet_finetune",
    "probe_vmoe",
)
SHORT = {"epochs": 4, "batch_size": 8, "train_share": 1.0, "eval_every": 1, "warmup_epochs": 1, "drop_path": 0.2, "lr": 3e-3}
IMAGES = {"train_probe": 6}
"""Images of each class that a phase finds; 2 unless it is named."""

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
        _in_dtype(patch, dtype)
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
    outcome = run_phase(Job(config, upstream, work, lambda: machine, case, store=Trained(trained, config.phase)))
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


class Trained(MemoryStore):
    """What earlier cases have trained, and images of noise."""

    def __init__(self, trained: dict[str, Weights], phase: str):
        super().__init__(trained)
        self.of_each_class = IMAGES.get(phase, 2)

    def pack(self, data: Data) -> TinyPack:
        return TinyPack(noise(self.of_each_class, data.image_size))

    def weights(self, folder: Path) -> Weights:
        return stage_state(self.states["teacher"], MODULE) if folder.name == "teacher_module" else super().weights(folder)

    def modules(self, *_: Any) -> dict[int, Weights]:
        return stages_of(self.states["modules"])


def _in_dtype(patch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Networks take the images in ``dtype``."""
    fit = common.fit
    patch.setattr(common, "fit", lambda trainees, *rest: fit([replace(each, task=_taking(each.task, dtype)) for each in trainees], *rest))


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
