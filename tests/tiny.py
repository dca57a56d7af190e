"""Small studies, networks and images: whatever a test needs that is real and quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from m2mkd.config import load
from m2mkd.config.models import ViTConfig
from m2mkd.data.pack import Split
from m2mkd.families.build import build_module, build_student
from m2mkd.models.vit import StagedViT
from m2mkd.seeds import forked_rng
from m2mkd.study.plan import build_study
from m2mkd.study.run import Run
from m2mkd.study.study import Study

CLASSES = 10
"""Of the data sets of scale smoke, which are the handwritten digits."""

State = dict[str, Tensor]


# --- studies ----------------------------------------------------------------------------------------------------------


def smoke(*experiments: str, ablations: bool = False, **overrides: Any) -> Study:
    """The study of scale smoke, or of some experiments at it, with changes in the shape of a scale file."""
    settings = load.settings({"scale": "smoke", "experiments": experiments, "overrides": overrides})
    return build_study(settings, ablations=ablations)


def of_phase(study: Study, phase: str) -> list[Run]:
    """Runs of one phase, in the order of the plan."""
    return [run for run in study.runs.values() if run.phase == phase]


def by_phase(study: Study) -> dict[str, list[Run]]:
    """All runs by phase."""
    return {phase: of_phase(study, phase) for phase in {run.phase for run in study.runs.values()}}


# --- networks ---------------------------------------------------------------------------------------------------------


def vit(config: ViTConfig, *names: object, image_size: int = 32) -> StagedViT:
    """A ViT with initial weights of its own for each name, in evaluation."""
    with forked_rng(*names):
        return StagedViT(config, image_size=image_size, num_classes=CLASSES).eval()


def student(config: Any, *, image_size: int = 32, stitch_width: int | None = None) -> State:
    """Initial weights of a student."""
    with forked_rng("weights"):
        sizes: dict[str, Any] = {"image_size": image_size, "num_classes": CLASSES, "stitch_width": stitch_width}
        return build_student(config, prior=None, compat={}, **sizes).state_dict()


def module(config: Any, index: int, *, image_size: int = 32, stitch_width: int = 64) -> State:
    """Initial weights of one module of a student."""
    with forked_rng("module", index):
        sizes: dict[str, Any] = {"image_size": image_size, "num_classes": CLASSES, "stitch_width": stitch_width}
        return build_module(config, index, drop_path=0.0, state_seed=0, compat={}, **sizes).state_dict()


# --- images -----------------------------------------------------------------------------------------------------------


def noise(of_each_class: int = 2, side: int = 32, *, classes: int = CLASSES, seed: int = 0) -> Split:
    """Images of noise, class after class in turn."""
    labels = np.arange(of_each_class * classes) % classes
    return Split(np.random.default_rng(seed).integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8), labels)


@dataclass(frozen=True)
class TinyPack:
    """A prepared set in memory."""

    train: Split
    val: Split | None = None
    """None: the same as ``train``."""
    classes: tuple[str, ...] = field(default_factory=lambda: tuple(map(str, range(CLASSES))))

    @property
    def image_size(self) -> int:
        return self.train.side

    @property
    def splits(self) -> Mapping[str, Split]:
        return {"train": self.train, "val": self.val or self.train}

    def split(self, name: str) -> Split:
        return self.splits[name]
