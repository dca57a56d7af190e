"""Region proposal network (specification detection.md 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import clip_boxes_to_image

from m2mkd.config.detection import DetectorConfig, DetectorSwitches, Proposals
from m2mkd.data.detection_stream import Target
from m2mkd.detection.anchors import level_anchors
from m2mkd.detection.operators import batched_nms
from m2mkd.detection.sampling import Sampler, match_anchors

PROPOSAL_OVERLAP = 0.7
ANCHOR_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Scored:
    """Network outputs for each anchor, level by level, with A anchors at a level."""

    anchors: list[Tensor]
    """(A, 4), float32."""
    logits: list[Tensor]
    """(N, A): logit that an instance is there."""
    deltas: list[Tensor]
    """(N, A, 4): coded offset from the anchor to the instance's box."""


@dataclass(frozen=True)
class Proposed:
    """Boxes of one image that may hold an instance, by falling logit."""

    boxes: Tensor
    """(P, 4), float32, inside the image."""
    logits: Tensor
    """(P), float32."""


class RegionProposalNetwork(nn.Module):
    """Network that scores anchors on each level of the pyramid, and proposes the best ones after moving them.

    Parameters
    ----------
    config
        Sizes; the head is shared by all levels.
    switches
        ``unreachable``, for the loss.
    """

    def __init__(self, config: DetectorConfig, switches: DetectorSwitches) -> None:
        super().__init__()
        self.config, self.switches = config, switches
        self.head = RPNHead(config.channels, len(config.anchor_sizes[0]) * len(config.anchor_ratios), conv_depth=config.rpn_convs)

    def forward(self, maps: list[Tensor]) -> Scored:
        """Score the anchors of the pyramid's ``maps`` (N, C, h, w)."""
        logits, deltas = self.head(maps)
        anchors = [
            level_anchors(level.shape[2], level.shape[3], stride, sizes, self.config.anchor_ratios, level.device)
            for level, stride, sizes in zip(maps, self.config.strides, self.config.anchor_sizes, strict=True)
        ]
        return Scored(
            anchors,
            [level.permute(0, 2, 3, 1).flatten(1) for level in logits],
            [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in deltas],
        )

    @torch.no_grad()
    def propose(self, scored: Scored, sizes: Sequence[tuple[int, int]], counts: Proposals) -> list[Proposed]:
        """Choose boxes: the best of each level, moved, clipped to the image, and with overlaps within a level removed.

        Parameters
        ----------
        scored
            Scored anchors.
        sizes
            Height and width of each image.
        counts
            Numbers of boxes to keep.
        """
        boxes, logits, levels = [], [], []
        for number, (anchors, level_logits, deltas) in enumerate(zip(scored.anchors, scored.logits, scored.deltas, strict=True)):
            best, place = largest(level_logits, counts.before_nms)
            chosen = deltas.gather(1, place[..., None].expand(-1, -1, 4))
            moved = ANCHOR_CODER.decode_single(chosen.float().flatten(0, 1), anchors[place].flatten(0, 1))
            boxes.append(moved.view(chosen.shape))
            logits.append(best.float())
            levels.append(torch.full_like(place, number))
        images = zip(torch.cat(boxes, 1), torch.cat(logits, 1), torch.cat(levels, 1), sizes, strict=True)
        return [_best(*image, counts.after_nms) for image in images]

    def losses(self, scored: Scored, targets: Sequence[Target], sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Losses of the logits and of the deltas: sums over the sampled anchors, divided by their target number.

        Parameters
        ----------
        scored
            Scored anchors.
        targets
            Instances of each image.
        sampler
            Chooses anchors.
        """
        anchors, logits, deltas = torch.cat(scored.anchors), torch.cat(scored.logits, 1), torch.cat(scored.deltas, 1)
        number = self.config.rpn_samples
        chosen, positive, coded = [], [], []
        for image, target in enumerate(targets):
            labels, instances = match_anchors(target.boxes, anchors, self.switches)
            positives, negatives = sampler("anchors", image, labels, number, number // 2)
            chosen.append(image * len(anchors) + torch.cat([positives, negatives]))
            positive.append(chosen[-1][: len(positives)])
            coded.append(ANCHOR_CODER.encode_single(target.boxes[instances[positives]], anchors[positives]))
        # One gather for all images, because the gradient of each is as large as all logits or deltas.
        found = logits.flatten()[torch.cat(chosen)].split([len(mine) for mine in chosen])
        distances = (deltas.flatten(0, 1)[torch.cat(positive)] - torch.cat(coded)).abs()
        by_logits = [_binary_cross_entropy(*mine) for mine in zip(found, map(len, positive), strict=True)]
        by_deltas = [mine.sum() for mine in distances.split([len(mine) for mine in positive])]
        divisor = number * len(targets)
        return torch.stack(by_logits).sum() / divisor, torch.stack(by_deltas).sum() / divisor


def _binary_cross_entropy(logits: Tensor, positive: int) -> Tensor:
    """Sum over logits of which the first ``positive`` belong to instances."""
    wanted = torch.zeros_like(logits)
    wanted[:positive] = 1
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


def largest(logits: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The ``number`` largest of each row of logits (N, A) and their places, the first of equal ones first on any device."""
    if logits.shape[1] > number:
        best, place = logits.topk(number + 1, dim=1)
        # topk is many times faster than a stable sort of all, but takes any of equal logits, in any order.
        if (best[:, number - 1] > best[:, number]).all():
            place = place[:, :number].sort(dim=1).values
            best, order = logits.gather(1, place).sort(dim=1, descending=True, stable=True)
            return best, place.gather(1, order)
    best, place = logits.sort(dim=1, descending=True, stable=True)
    return best[:, :number], place[:, :number]


def _best(boxes: Tensor, logits: Tensor, levels: Tensor, size: tuple[int, int], number: int) -> Proposed:
    finite = boxes.isfinite().all(dim=1) & logits.isfinite()
    boxes = clip_boxes_to_image(boxes, size)
    valid = (finite & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)).nonzero().flatten()
    boxes, logits = boxes[valid], logits[valid]
    kept = batched_nms(boxes, logits, levels[valid], PROPOSAL_OVERLAP, number)
    return Proposed(boxes[kept], logits[kept])
