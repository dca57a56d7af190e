"""Average precision of a detector's boxes and masks, as COCO measures it (specification detection.md 3.5)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from m2mkd.data.detection_pack import DetectionSplit, detection_split
from m2mkd.data.detection_stream import detection_eval_batches
from m2mkd.distill.transfer import load_strictly
from m2mkd.evaluation.average_precision import RECALLS, AveragePrecision, Predictions, truth_of
from m2mkd.evaluation.diagnostics import expert_use
from m2mkd.study.phase import DETECTION_BATCH
from m2mkd.study.phases import EvaluateDetector
from m2mkd.training.job import Job, Outcome
from m2mkd.training.phases.detecting import detected, detector_of, precision_of

CURVES_AT = (0.5, 0.75)
"""Overlaps for which the precision-recall curve is kept."""
EXAMPLES = 8
"""Number of images whose detections are kept, to be drawn next to the truth."""
CERTAIN = 0.5
"""Minimum score of a kept detection."""
DIGITS = 5
"""Decimal digits of values that are only drawn."""


def run(job: Job[EvaluateDetector]) -> Outcome:
    """Measure every image of the validation set."""
    config, machine = job.config, job.machine()
    detector = detector_of(config)
    load_strictly(detector, job.weights("detector"), "detector")
    detector.to(machine.device).eval()
    pack = job.pack(config.data)
    split = detection_split(pack, "val")
    found: list[Predictions] = []

    def measure() -> None:
        found.extend(
            detected(detector, detection_eval_batches(split, config.input, DETECTION_BATCH, workers=machine.workers), machine.device)
        )

    used = expert_use(detector, [measure], len(split))
    measured = precision_of(truth_of(split), found, pack.classes)
    return Outcome(
        {
            "count": len(split),
            **{kind: one.numbers for kind, one in measured.items()},
            "per_class": {kind: one.per_class for kind, one in measured.items()},
            "precision_recall": {"recall": RECALLS.tolist(), **{kind: _curves(one) for kind, one in measured.items()}},
            "examples": [_example(one, split) for one in found[:EXAMPLES]],
            "diagnostics": used,
        }
    )


def _curves(measured: AveragePrecision) -> dict[str, list[float]]:
    """Precision at each recall, by overlap."""
    return {f"{iou:g}": np.round(measured.curve(iou), DIGITS).tolist() for iou in CURVES_AT}


def _example(found: Predictions, split: DetectionSplit) -> dict[str, Any]:
    """Image, by its index in the set, with its most certain detections."""
    scores: Sequence[float] = np.asarray(found.scores, np.float64).round(DIGITS).tolist()
    kept = [place for place, score in enumerate(scores) if score >= CERTAIN]
    boxes = np.asarray(found.boxes, np.float64).round(2).reshape(-1, 4)
    return {
        "image": found.image,
        "size": [int(split.attributes[name][found.image]) for name in ("height", "width")],
        "boxes": boxes[kept].tolist(),
        "scores": [scores[place] for place in kept],
        "classes": np.asarray(found.classes)[kept].tolist(),
        "masks": [found.masks[place]["counts"] for place in kept],
    }
