"""Mask R-CNN on a V-MoE (specification detection.md 3)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m2mkd.config.compat import Value
from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.data.detection_stream import Target
from m2mkd.detection.backbone import Backbone
from m2mkd.detection.detections import Detections
from m2mkd.detection.heads import Averaging, RegionHeads
from m2mkd.detection.images import batched
from m2mkd.detection.pyramid import SimpleFeaturePyramid
from m2mkd.detection.rpn import RegionProposalNetwork
from m2mkd.detection.sampling import Sampler
from m2mkd.models.moe import ExpertInit


class Losses(NamedTuple):
    """Parts of a detector's loss, each a scalar; the loss is their sum."""

    classes: Tensor
    """Cross-entropy of the regions' classes."""
    boxes: Tensor
    """L1 distance of the coded boxes of the foreground, over all regions."""
    masks: Tensor
    """Binary cross-entropy of the masks of the foreground."""
    anchors: Tensor
    """Binary cross-entropy of the anchors' logits."""
    anchor_boxes: Tensor
    """L1 distance of the coded boxes of the positive anchors, over all sampled anchors."""

    @property
    def total(self) -> Tensor:
        """The loss."""
        return torch.stack(self).sum()


class Detector(nn.Module):
    """Mask R-CNN that predicts boxes, classes and masks of the instances in images.

    Parameters
    ----------
    config
        Sizes.
    num_classes
        Number of classes K.
    switches
        Values of the compat switches.
    drop_path
        Stochastic depth of the backbone: rate of its last block, linear from 0.
    expert_init
        Initial weights of the experts (specification vmoe.md 1.5).
    """

    def __init__(
        self,
        config: DetectorConfig,
        num_classes: int,
        switches: DetectorSwitches,
        *,
        drop_path: float = 0.0,
        expert_init: ExpertInit = "trunc02",
    ) -> None:
        super().__init__()
        self.config, self.num_classes, self.switches = config, num_classes, switches
        self.backbone = Backbone(config, switches, drop_path=drop_path, expert_init=expert_init)
        self.pyramid = SimpleFeaturePyramid(config.backbone.width, config.channels)
        self.rpn = RegionProposalNetwork(config, switches)
        self.heads = RegionHeads(config, num_classes)

    def batched(self, images: Sequence[Tensor]) -> Tensor:
        """Batch of normalised images, see `m2mkd.detection.images.batched`."""
        return batched(images, self.config, self.switches, self.pyramid.levels[0][0].weight.dtype)  # type: ignore[index]

    def maps(self, images: Sequence[Tensor], noise: torch.Generator | None = None) -> list[Tensor]:
        """Levels of the pyramid (N, C, h, w), finest first; parameters as in `losses`."""
        return self.pyramid(self.backbone(self.batched(images), noise))

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        sampler: Sampler,
        *,
        averaging: Averaging = "image",
        noise: torch.Generator | None = None,
    ) -> Losses:
        """Parts of the loss.

        Parameters
        ----------
        images
            N images (3, h, w), red first, pixels from 0 to 255, on the detector's device. Each is padded to the square; with
            ``detection_input`` corner it is cropped.
        targets
            Instances of each image, in its pixels.
        sampler
            Chooses anchors and regions, for example a `RandomSampler`.
        averaging
            ``image``: each image has the same weight, so that the mean over parts of a batch is the loss of the batch. ``batch``: each
            region has the same weight, as in detectron2 with the whole batch on one device.
        noise
            Source of noise for a V-MoE whose router has noise.

        Raises
        ------
        InputError
            If an image is larger than the square and must not be cropped.
        """
        maps = self.maps(images, noise)
        scored = self.rpn(maps)
        by_anchor = self.rpn.losses(scored, targets, sampler)
        proposed = self.rpn.propose(scored, sizes(images), self.config.train_proposals)
        regions = self.heads.sample(proposed, targets, sampler)
        return Losses(*self.heads.losses(maps, regions, targets, averaging), *by_anchor)

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detections in each image, in its pixels; ``images`` are as in `losses`."""
        maps = self.maps(images)
        proposed = self.rpn.propose(self.rpn(maps), sizes(images), self.config.test_proposals)
        return self.heads.detect(maps, proposed, sizes(images))

    def forward(self, images: Sequence[Tensor]) -> list[Detections]:
        """See `predict`."""
        return self.predict(images)


def build_detector(config: DetectorConfig, *, num_classes: int, drop_path: float = 0.0, compat: Mapping[str, Value]) -> Detector:
    """Detector with initial weights from torch's global generator.

    Parameters
    ----------
    config
        Sizes.
    num_classes
        Number of classes of the data set.
    drop_path
        Stochastic depth of the backbone.
    compat
        Values of ``expert_init`` and of the switches of `DetectorSwitches`; absent means corrected.
    """
    expert_init: ExpertInit = compat.get("expert_init", "trunc02")  # type: ignore[assignment]
    return Detector(config, num_classes, DetectorSwitches.of(compat), drop_path=drop_path, expert_init=expert_init)


def sizes(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Height and width of each image."""
    return [(image.shape[1], image.shape[2]) for image in images]
