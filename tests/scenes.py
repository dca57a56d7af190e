"""A few scenes of digits as a prepared set, and a job that trains a small detector on them."""

from pathlib import Path
from typing import Any

import pytest

from m2mkd.config import load
from m2mkd.config.merge import merged
from m2mkd.data import digits_scenes
from m2mkd.data.pack import Pack, open_pack
from m2mkd.data.prepare import prepare
from m2mkd.study.phases import EvaluateDetector, TrainDetector
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from tests.tiny import smoke

TRAIN, VAL = 24, 6
"""Scenes of the two splits."""
SMALL: dict[str, Any] = {
    "models": {"vmoe_base": {"depths": [1, 1, 1, 1], "width": 32}},
    "detectors": {
        "vmoe_base_1024": {
            "channels": 8,
            "window_size": 4,
            "global_blocks": [1, 3],
            "rpn_samples": 32,
            "train_proposals": {"before_nms": 60, "after_nms": 20},
            "test_proposals": {"before_nms": 40, "after_nms": 10},
            "region_samples": 16,
            "box_convs": 1,
            "box_width": 16,
            "mask_convs": 1,
            "detections": 5,
        }
    },
    "detection_recipes": {"detection": {"updates": 10, "batch_size": 4, "warmup_updates": 2, "milestones": [6, 8], "eval_every": 1}},
}
"""What makes the detector of scale smoke smaller: ten updates on 24 scenes are one pass and two thirds."""


def write_scenes(folder: Path, train: int = TRAIN, val: int = VAL) -> Pack:
    """Prepare so many scenes of 64 pixels."""
    dataset = load.datasets()["digits-scenes"].model_copy(update={"train_images": train, "val_images": val})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_scenes, "SCENES", {"train": train, "val": val})
        prepare("digits-scenes", dataset, 64, folder, processes=1)
    return open_pack(folder)


def detection_study(variant: str = "random", **changes: Any) -> Study:
    """The study of one small detector."""
    return smoke(f"coco_vmoe_base/{variant}", **merged(SMALL, changes))


def detector_run(study: Study) -> Run:
    """Its training."""
    return next(run for run in study.runs.values() if isinstance(run.config, TrainDetector))


def evaluation_run(study: Study) -> Run:
    """Its measurement."""
    return next(run for run in study.runs.values() if isinstance(run.config, EvaluateDetector))
