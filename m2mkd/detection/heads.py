"""Box and mask heads on proposed regions (specification detection.md 3.4, 3.5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import clip_boxes_to_image

from m2mkd.config.detection import BOX_BINS, MASK_BINS, DetectorConfig
from m2mkd.data.detection_stream import Target
from m2mkd.detection.detections import Detections
from m2mkd.detection.operators import batched_nms
from m2mkd.detection.pooling import pool_regions
from m2mkd.detection.pyramid import channel_norm
from m2mkd.detection.rpn import Proposed
from m2mkd.detection.sampling import NEGATIVE, POSITIVE, Sampler, match_regions
from m2mkd.detection.targets import mask_targets

REGION_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
SCORE_THRESHOLD, DETECTION_OVERLAP = 0.05, 0.5
Averaging = Literal["image", "batch"]
"""Averaging of the heads' losses: over each image's regions and then over the images; or over the regions of the whole batch."""


@dataclass(frozen=True)
class Regions:
    """Sampled regions of one image, foreground first."""

    boxes: Tensor
    """(R, 4), float32."""
    classes: Tensor
    """(R), int64; the background has the number of classes as its index."""
    instances: Tensor
    """Instance that each region overlaps most, int64 (R)."""
    foreground: int
    """Number of regions that belong to an instance."""


class RegionHeads(nn.Module):
    """Heads for classes, boxes and masks of regions.

    Parameters
    ----------
    config
        Sizes.
    num_classes
        Number of classes K; the background is class K.
    """

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        channels = config.channels
        self.box_head = FastRCNNConvFCHead(
            (channels, BOX_BINS, BOX_BINS), [channels] * config.box_convs, [config.box_width], norm_layer=channel_norm
        )
        self.class_logits = nn.Linear(config.box_width, num_classes + 1)
        self.box_deltas = nn.Linear(config.box_width, 4 * num_classes)
        self.mask_head = MaskRCNNHeads(channels, [channels] * config.mask_convs, 1, norm_layer=channel_norm)
        self.mask_logits = MaskRCNNPredictor(channels, channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Set the initial weights that differ from those of torchvision's classes."""
        for layer in self.box_head:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        for layer, std in ((self.class_logits, 0.01), (self.box_deltas, 0.001), (self.mask_logits.mask_fcn_logits, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.mask_logits.conv5_mask.bias)

    def sample(self, proposed: Sequence[Proposed], targets: Sequence[Target], sampler: Sampler) -> list[Regions]:
        """Choose the regions for the loss from the proposals and the instances' own boxes."""
        sampled = []
        number = self.config.region_samples
        for image, (proposals, target) in enumerate(zip(proposed, targets, strict=True)):
            boxes = torch.cat([proposals.boxes, target.boxes])
            classes, instances = match_regions(target.boxes, target.classes, boxes, self.num_classes)
            labels = torch.where(classes < self.num_classes, POSITIVE, NEGATIVE)
            positives, negatives = sampler("regions", image, labels, number, number // 4)
            chosen = torch.cat([positives, negatives])
            sampled.append(Regions(boxes[chosen], classes[chosen], instances[chosen], len(positives)))
        return sampled

    def boxes(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and coded boxes for each class (R, K, 4) of each image's ``boxes`` (R, 4)."""
        hidden = self.box_head(self._pooled(maps, boxes, BOX_BINS))
        return self.class_logits(hidden), self.box_deltas(hidden).unflatten(1, (-1, 4))

    def masks(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], classes: Tensor) -> Tensor:
        """Mask logits (R, 28, 28) of each image's ``boxes`` (R, 4), each for its class (R of all images)."""
        logits = self.mask_logits(self.mask_head(self._pooled(maps, boxes, MASK_BINS)))
        return logits[torch.arange(len(logits), device=logits.device), classes]

    def losses(
        self, maps: Sequence[Tensor], regions: Sequence[Regions], targets: Sequence[Target], averaging: Averaging
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of classes, boxes and masks.

        Parameters
        ----------
        maps
            Levels of the pyramid.
        regions
            Sampled regions of each image.
        targets
            Instances of each image.
        averaging
            See `Averaging`.
        """
        logits, deltas = self.boxes(maps, [mine.boxes for mine in regions])
        classes = torch.cat([mine.classes for mine in regions])
        share = _shares([len(mine.boxes) for mine in regions], averaging, logits)
        by_class = (F.cross_entropy(logits, classes, reduction="none") * share).sum()

        front = (classes < self.num_classes).nonzero().flatten()
        found = [mine.boxes[: mine.foreground] for mine in regions]
        instances = [mine.instances[: mine.foreground] for mine in regions]
        wanted = torch.cat([target.boxes[mine] for target, mine in zip(targets, instances, strict=True)])
        coded = REGION_CODER.encode_single(wanted, torch.cat(found))
        by_box = ((deltas[front, classes[front]] - coded).abs().sum(dim=1) * share[front]).sum()

        masks = self.masks(maps, found, classes[front])
        drawn = mask_targets(targets, instances, found).to(masks.dtype)
        by_place = F.binary_cross_entropy_with_logits(masks, drawn, reduction="none")
        by_mask = (by_place.mean(dim=(1, 2)) * _shares([mine.foreground for mine in regions], averaging, masks)).sum()
        return by_class, by_box, by_mask

    def detect(self, maps: Sequence[Tensor], proposed: Sequence[Proposed], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Find the instances among the proposals of each image.

        Parameters
        ----------
        maps
            Levels of the pyramid.
        proposed
            Proposals of each image.
        sizes
            Height and width of each image.
        """
        boxes = [mine.boxes for mine in proposed]
        logits, deltas = self.boxes(maps, boxes)
        every = torch.cat(boxes)
        moved = REGION_CODER.decode_single(deltas.float().flatten(1), every).view(deltas.shape)
        numbers = [len(mine) for mine in boxes]
        scores = logits.softmax(dim=1)[:, : self.num_classes].float()
        found = [self._found(*mine) for mine in zip(moved.split(numbers), scores.split(numbers), sizes, strict=True)]
        masks = self.masks(maps, [mine[0] for mine in found], torch.cat([mine[2] for mine in found])).sigmoid()
        shares = masks.split([len(mine[0]) for mine in found])
        return [Detections(*mine, share) for mine, share in zip(found, shares, strict=True)]

    def _found(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of an image's detections, from boxes (R, K, 4) and scores (R, K)."""
        finite = boxes.isfinite().all(dim=2).all(dim=1) & scores.isfinite().all(dim=1)
        region, classes = ((scores > SCORE_THRESHOLD) & finite[:, None]).nonzero(as_tuple=True)
        boxes, scores = clip_boxes_to_image(boxes[region, classes], size), scores[region, classes]
        kept = batched_nms(boxes, scores, classes, DETECTION_OVERLAP, self.config.detections)
        return boxes[kept], scores[kept], classes[kept]

    def _pooled(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], bins: int) -> Tensor:
        return pool_regions(maps, self.config.strides, boxes, bins, self.config.canonical_size)


def _shares(numbers: Sequence[int], averaging: Averaging, like: Tensor) -> Tensor:
    """Weight of each region in a mean over ``numbers`` regions of each image."""
    whole = max(sum(numbers), 1)
    weights = [1 / whole if averaging == "batch" else 1 / (max(number, 1) * len(numbers)) for number in numbers]
    exact = like.new_tensor(weights, dtype=torch.promote_types(like.dtype, torch.float32))  # half precision rounds a share of many regions
    return torch.repeat_interleave(exact, torch.tensor(numbers, device=like.device), output_size=sum(numbers))
