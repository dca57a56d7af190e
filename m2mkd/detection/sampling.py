"""Matching of anchors and regions to instances, and sampling for the loss (specification detection.md 3.3, 3.4)."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from m2mkd.config.detection import DetectorSwitches

IGNORED, NEGATIVE, POSITIVE = -1, 0, 1
ANCHOR_MATCHER = Matcher(0.7, 0.3, allow_low_quality_matches=True)
REGION_MATCHER = Matcher(0.5, 0.5, allow_low_quality_matches=False)


def match_anchors(boxes: Tensor, anchors: Tensor, switches: DetectorSwitches) -> tuple[Tensor, Tensor]:
    """Label anchors by their overlap with the instances.

    Parameters
    ----------
    boxes
        Instances (G, 4).
    anchors
        (A, 4), not clipped to the image.
    switches
        ``unreachable`` sets the labels for an instance that no anchor overlaps enough.

    Returns
    -------
    labels, instances
        1 for an anchor that overlaps an instance by at least 0.7 or as much as any anchor does, 0 for one that overlaps all by less than
        0.3, -1 for others; and the instance that each anchor overlaps most. Both int64 (A).
    """
    overlap = _overlap(boxes, anchors)
    counted = overlap if switches.unreachable == "positive" else overlap[(overlap > 0).any(dim=1)]
    if not len(counted):
        return torch.full_like(anchors[:, 0], NEGATIVE, dtype=torch.int64), torch.zeros_like(anchors[:, 0], dtype=torch.int64)
    matched = ANCHOR_MATCHER(counted)
    labels = torch.where(matched >= 0, POSITIVE, torch.where(matched == Matcher.BELOW_LOW_THRESHOLD, NEGATIVE, IGNORED))
    return labels, overlap.max(dim=0).indices


def match_regions(boxes: Tensor, classes: Tensor, regions: Tensor, background: int) -> tuple[Tensor, Tensor]:
    """Class of each region: that of the instance that it overlaps by at least half, or the background.

    Parameters
    ----------
    boxes, classes
        Instances (G, 4) and their classes (G).
    regions
        (R, 4).
    background
        Index of the background class.

    Returns
    -------
    classes, instances
        Class of each region, and the instance that it overlaps most. Both int64 (R).
    """
    if not len(boxes):
        return torch.full_like(regions[:, 0], background, dtype=torch.int64), torch.zeros_like(regions[:, 0], dtype=torch.int64)
    overlap = _overlap(boxes, regions)
    matched = REGION_MATCHER(overlap)
    return torch.where(matched >= 0, classes[matched.clamp(min=0)], background), overlap.max(dim=0).indices


def _overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (G, R), 0 for two boxes without area."""
    return box_iou(boxes, others).nan_to_num(0.0)


Candidates = Literal["anchors", "regions"]
"""Kind of candidates; the anchors of all images are drawn before the regions of any image."""


class Sampler(Protocol):
    """Protocol for choosing the anchors and regions of the loss."""

    def __call__(self, candidates: Candidates, image: int, labels: Tensor, number: int, positive: int) -> tuple[Tensor, Tensor]:
        """Choose at most ``positive`` positive candidates and at most ``number`` in total.

        Parameters
        ----------
        candidates
            Kind of candidates.
        image
            Index of the image in the batch.
        labels
            1 for positive, 0 for negative candidates; others are never chosen.
        number, positive
            Maximum numbers.

        Returns
        -------
        positives, negatives
            Indices, int64.
        """


class RandomSampler:
    """Random choice: positives first, then negatives up to ``number`` in total.

    Parameters
    ----------
    generators
        One generator on the CPU for each image, so that the choice depends neither on the device nor on the other images; the same
        generator may occur several times, and is then used in turn.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def __call__(self, candidates: Candidates, image: int, labels: Tensor, number: int, positive: int) -> tuple[Tensor, Tensor]:
        """See `Sampler`."""
        positives, negatives = ((labels == label).nonzero().flatten() for label in (POSITIVE, NEGATIVE))
        chosen = self._some(positives, positive, image)
        return chosen, self._some(negatives, number - len(chosen), image)

    def _some(self, places: Tensor, number: int, image: int) -> Tensor:
        return places[torch.randperm(len(places), generator=self.generators[image])[:number].to(places.device)]
