"""Which anchors and regions stand for which instance, and which of them are in the loss (specification detection.md 3.3, 3.4)."""

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
        ``unreachable`` says what is right for an instance that no anchor overlaps.

    Returns
    -------
    labels, instances
        1 for an anchor that overlaps an instance by 0.7 or as much as any anchor does, 0 for one that overlaps none by 0.3, -1 for others;
        and the instance that each overlaps most. Both int64 (A).
    """
    overlap = _overlap(boxes, anchors)
    counted = overlap if switches.unreachable == "positive" else overlap[(overlap > 0).any(dim=1)]
    if not len(counted):
        return torch.full_like(anchors[:, 0], NEGATIVE, dtype=torch.int64), torch.zeros_like(anchors[:, 0], dtype=torch.int64)
    matched = ANCHOR_MATCHER(counted)
    labels = torch.where(matched >= 0, POSITIVE, torch.where(matched == Matcher.BELOW_LOW_THRESHOLD, NEGATIVE, IGNORED))
    return labels, overlap.max(dim=0).indices


def match_regions(boxes: Tensor, classes: Tensor, regions: Tensor, background: int) -> tuple[Tensor, Tensor]:
    """Class of each region: that of the instance which it overlaps by half or more, or the background.

    Parameters
    ----------
    boxes, classes
        Instances (G, 4) and their classes (G).
    regions
        (R, 4).
    background
        Number of the background's class.

    Returns
    -------
    classes, instances
        Of each region, and the instance that it overlaps most. Both int64 (R).
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
"""What is chosen from; all images' anchors come before any image's regions."""


class Sampler(Protocol):
    """Chooses the anchors and regions that are in the loss."""

    def __call__(self, candidates: Candidates, image: int, labels: Tensor, number: int, positive: int) -> tuple[Tensor, Tensor]:
        """Choose at most ``positive`` of the positive and at most ``number`` of all.

        Parameters
        ----------
        candidates
            What is chosen from.
        image
            Place of the image in the batch.
        labels
            1 for positive ones, 0 for negative ones, others are never chosen.
        number, positive
            How many are wanted.

        Returns
        -------
        positives, negatives
            Indices, int64.
        """


class RandomSampler:
    """Chooses at random: the positives first, then as many negatives as are left to ``number``.

    Parameters
    ----------
    generators
        One on the CPU for each image, so that what is chosen depends neither on the device nor on the other images; the same one may stand
        several times, and is then drawn from in turn.
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
