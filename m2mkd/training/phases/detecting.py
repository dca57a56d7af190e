"""What the phases of detectors share: how one is built, what it finds, and what that comes to."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from m2mkd.data.detection_pack import DetectionSplit
from m2mkd.data.detection_stream import DetectionEvalBatch
from m2mkd.data.segmentation import run_lengths
from m2mkd.detection.detector import Detector, build_detector
from m2mkd.evaluation.average_precision import AveragePrecision, Kind, Predictions, Truth, average_precision, truth_of
from m2mkd.ranks import Ranks
from m2mkd.study.phases import EvaluateDetector, TrainDetector

KINDS: tuple[Kind, ...] = ("boxes", "masks")
FOLLOWED = ("AP", "AP50", "AP75")
"""Numbers that are in the learning curves."""


def detector_of(config: TrainDetector | EvaluateDetector, drop_path: float = 0.0) -> Detector:
    """A detector with initial weights from torch's global generator."""
    return build_detector(config.model, num_classes=config.data.classes, drop_path=drop_path, compat=config.compat)


def detected(detector: Detector, batches: Iterable[DetectionEvalBatch], device: torch.device) -> Iterator[Predictions]:
    """What a detector in evaluation mode finds in each image, in pixels of the image as it was annotated."""
    for batch in batches:
        images = [image.to(device) for image in batch.images]
        for image, found, size, index in zip(images, detector.predict(images), batch.sizes, batch.ids.tolist(), strict=True):
            placed = found.resized((image.shape[1], image.shape[2]), size)
            masks = run_lengths(placed.bitmaps(*size).cpu()) if len(placed) else []
            boxes, scores, classes = (values.cpu().numpy() for values in (placed.boxes, placed.scores, placed.classes))
            yield Predictions(index, boxes, scores, classes, masks)


def precision_of(truth: Sequence[Truth], found: Sequence[Predictions], classes: Sequence[str]) -> dict[Kind, AveragePrecision]:
    """Average precision of boxes and of masks."""
    return {kind: average_precision(truth, found, classes, kind) for kind in KINDS}


class Validation:
    """What a detector comes to on a validation set while it trains.

    Parameters
    ----------
    detector, split, classes, device
        What is measured, on what, the names of its classes, and where.
    """

    def __init__(self, detector: Detector, split: DetectionSplit, classes: Sequence[str], device: torch.device):
        self.detector, self.split, self.classes, self.device = detector, split, classes, device

    def __call__(self, batches: Iterable[Any], ranks: Ranks) -> dict[str, float]:
        """Numbers of all ranks' batches, of which each has its own; those that there are no instances for are left out."""
        shares = ranks.all_gather(list(detected(self.detector, batches, self.device)))
        found = sorted((one for share in shares for one in share), key=lambda one: one.image)
        measured = precision_of(truth_of(self.split), found, self.classes)
        named = {f"val_{kind}_{name}": measured[kind].numbers[name] for kind in KINDS for name in FOLLOWED}
        return {name: value for name, value in named.items() if value is not None}
