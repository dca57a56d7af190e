"""Average precision of detections, measured by COCO's own code: for boxes or masks, by size and by class."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2mkd.data.annotations import Instance
from m2mkd.data.detection_pack import DetectionSplit
from m2mkd.data.segmentation import compressed
from m2mkd.study.measurements import PRECISIONS

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
Kind = Literal["boxes", "masks"]
_TYPES: dict[Kind, Literal["bbox", "segm"]] = {"boxes": "bbox", "masks": "segm"}


class Truth(NamedTuple):
    """Annotations of one image."""

    height: int
    width: int
    instances: Sequence[Instance]
    """Includes crowds, in which detections count as neither right nor wrong."""


class Predictions(NamedTuple):
    """D detections in one image, in any order."""

    image: int
    """Index of the image's truth."""
    boxes: ArrayLike
    """x0 y0 x1 y1 in pixels of the annotated image, (D, 4)."""
    scores: ArrayLike
    """(D,)."""
    classes: ArrayLike
    """From 0, (D,)."""
    masks: Sequence[dict[str, Any]] = ()
    """Compressed run lengths, see `m2mkd.data.segmentation.run_lengths`; None: only boxes can be measured."""


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision over a set, each value from 0 to 1; None if there is no instance to measure on."""

    numbers: dict[str, float | None]
    """The twelve metrics of `PRECISIONS`."""
    per_class: dict[str, float | None]
    """AP of each class, by name."""
    precision: NDArray[np.float64]
    """Precision at each of `IOUS`, `RECALLS` and classes, (10, 101, C), with at most 100 detections per image; NaN for a class without
    instances."""

    def curve(self, iou: float) -> NDArray[np.float64]:
        """Precision at each of `RECALLS`, averaged over the classes that have instances, (101,); zeros if none has."""
        at = self.precision[int(np.argmin(np.abs(IOUS - iou)))]
        known = at[:, ~np.isnan(at).any(axis=0)]
        return known.mean(axis=1) if known.size else np.zeros(len(RECALLS))


def truth_of(split: DetectionSplit) -> list[Truth]:
    """Annotations of the images of a split."""
    sizes = zip(split.attributes["height"].tolist(), split.attributes["width"].tolist(), strict=True)
    return [Truth(*size, split.instances(index)) for index, size in enumerate(sizes)]


def average_precision(
    truth: Sequence[Truth], detections: Iterable[Predictions], classes: Sequence[str], kind: Kind, size: Kind | None = None
) -> AveragePrecision:
    """Measure detections.

    Parameters
    ----------
    truth
        Annotations of all images to measure on.
    detections
        Predictions for those images that have any.
    classes
        Class names in the order of the labels.
    kind
        Compare boxes or masks.
    size
        Shape whose area decides if a detection is small, medium or large: the measured one, or always the box, as in COCO's code for
        files of detections that have both. It decides which false positives count against the precision of a size.
    """
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # COCO's code prints its progress
        annotated = _dataset(
            truth, classes, (_annotation(image, one, truth[image]) for image in range(len(truth)) for one in truth[image].instances)
        )
        found = _dataset(truth, classes, (one for each in detections for one in _found(each, kind, size or kind)))
        evaluation = COCOeval(annotated, found, _TYPES[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    numbers = dict(zip(PRECISIONS, map(_known, evaluation.stats.tolist()), strict=True))
    means = [None if np.isnan(column).any() else float(column.mean()) for column in np.moveaxis(precision, 2, 0)]
    return AveragePrecision(numbers, dict(zip(classes, means, strict=True)), precision)


def _known(number: float) -> float | None:
    """COCO's number, or None for its -1, which means that there is nothing to measure on."""
    return None if number < 0 else number


def _dataset(truth: Sequence[Truth], classes: Sequence[str], annotations: Iterable[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": index, "height": image.height, "width": image.width} for index, image in enumerate(truth)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes)],
        "annotations": [annotation | {"id": number} for number, annotation in enumerate(annotations, start=1)],
    }
    dataset.createIndex()
    return dataset


def _annotation(image: int, instance: Instance, truth: Truth) -> dict[str, Any]:
    # Nothing is left of outlines of fewer than three points, but the library needs a mask.
    mask = instance.segmentation or {
        "size": [truth.height, truth.width],
        "counts": compressed([truth.height * truth.width], truth.height, truth.width),
    }
    return {
        "image_id": image,
        "category_id": instance.label,
        "bbox": instance.bbox,
        "area": instance.area,
        "iscrowd": instance.iscrowd,
        "segmentation": mask,
    }


def _found(detections: Predictions, kind: Kind, size: Kind) -> Iterator[dict[str, Any]]:
    """Predictions in the form that COCO's code takes."""
    from pycocotools import mask

    corners = np.asarray(detections.boxes, np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    areas = sides.prod(axis=1)
    shapes: Iterable[Any] = np.concatenate([corners[:, :2], sides], axis=1).tolist()
    if kind == "masks":
        shapes = detections.masks
    if size == "masks":
        areas = mask.area(list(detections.masks)) if detections.masks else np.zeros(0)
    scores, labels = np.asarray(detections.scores, np.float64), np.asarray(detections.classes, np.int64)
    field = "bbox" if kind == "boxes" else "segmentation"
    for label, score, area, shape in zip(labels.tolist(), scores.tolist(), areas.tolist(), shapes, strict=True):
        yield {"image_id": detections.image, "category_id": label, "score": score, "iscrowd": 0, "area": area, field: shape}
