"""Common parts of the detector phases: building a detector, its predictions, and their measurement."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from m2mkd.config.detection_input import DetectionInput
from m2mkd.data.detection_pack import DetectionSplit, detection_split
from m2mkd.data.detection_stream import DetectionEvalBatch, detection_eval_batches
from m2mkd.data.pack import Pack
from m2mkd.data.segmentation import run_lengths
from m2mkd.detection.detector import Detector, build_detector
from m2mkd.errors import InputError
from m2mkd.evaluation.average_precision import AveragePrecision, Kind, Predictions, Truth, average_precision, truth_of
from m2mkd.ranks import Ranks
from m2mkd.study.phase import DETECTION_BATCH
from m2mkd.study.phases import EvaluateDetector, TrainDetector

KINDS_OF_AP: tuple[Kind, ...] = ("boxes", "masks")
RELEASED_EDGES = 800, 1333
"""Shorter side in pixels in the released evaluation, and the maximum of the longer side."""
FOLLOWED = ("AP", "AP50", "AP75")
"""Names of the measurements in the learning curves."""


def detector_of(config: TrainDetector | EvaluateDetector, drop_path: float = 0.0) -> Detector:
    """Detector with initial weights from torch's global generator."""
    return build_detector(config.model, num_classes=config.data.classes, drop_path=drop_path, compat=config.compat)


def detected(detector: Detector, batches: Iterable[DetectionEvalBatch], device: torch.device) -> Iterator[Predictions]:
    """Predictions of a detector in evaluation mode for each image, in pixels of the annotated image."""
    for batch in batches:
        images = [image.to(device) for image in batch.images]
        for image, found, size, index in zip(images, detector.predict(images), batch.sizes, batch.ids.tolist(), strict=True):
            placed = found.resized((image.shape[1], image.shape[2]), size)
            masks = run_lengths(placed.bitmaps(*size).cpu()) if len(placed) else []
            boxes, scores, classes = (values.cpu().numpy() for values in (placed.boxes, placed.scores, placed.classes))
            yield Predictions(index, boxes, scores, classes, masks)


def precision_of(truth: Sequence[Truth], found: Sequence[Predictions], classes: Sequence[str]) -> dict[Kind, AveragePrecision]:
    """Average precision of boxes and of masks."""
    return {kind: average_precision(truth, found, classes, kind) for kind in KINDS_OF_AP}


def measure_detector(detector: Detector, pack: Pack, device: torch.device) -> dict[str, Any]:
    """Average precision on the validation split of a prepared set.

    A released detector sees BGR and, as in its own evaluation, the corner of an image whose shorter side has 800 pixels; any other
    detector sees the whole image in its square.

    Raises
    ------
    InputError
        If the detector has another number of classes than the set.
    """
    if detector.num_classes != len(pack.classes):
        raise InputError(f"the detector has {detector.num_classes} classes, but {pack.name} has {len(pack.classes)}; name another set")
    given = DetectionInput(test_size=detector.config.image_size, test_longest=detector.config.image_size)
    if detector.switches.detection_input == "corner":
        given = DetectionInput(test_size=RELEASED_EDGES[0], test_longest=RELEASED_EDGES[1])
        detector.switches = detector.switches.model_copy(update={"channel_order": "bgr"})
    split = detection_split(pack, "val")
    found = list(detected(detector.to(device).eval(), detection_eval_batches(split, given, DETECTION_BATCH), device))
    return {"count": len(split), **{kind: one.numbers for kind, one in precision_of(truth_of(split), found, pack.classes).items()}}


class Validation:
    """Measurement of a detector on a validation set during training.

    Parameters
    ----------
    detector, split, classes, device
        Detector, validation split, names of its classes, and device.
    """

    def __init__(self, detector: Detector, split: DetectionSplit, classes: Sequence[str], device: torch.device):
        self.detector, self.split, self.classes, self.device = detector, split, classes, device

    def __call__(self, batches: Iterable[Any], ranks: Ranks) -> dict[str, float]:
        """Measurements over the batches of all ranks; those without instances are left out."""
        shares = ranks.all_gather(list(detected(self.detector, batches, self.device)))
        found = sorted((one for share in shares for one in share), key=lambda one: one.image)
        measured = precision_of(truth_of(self.split), found, self.classes)
        named = {f"val_{kind}_{name}": measured[kind].numbers[name] for kind in KINDS_OF_AP for name in FOLLOWED}
        return {name: value for name, value in named.items() if value is not None}
