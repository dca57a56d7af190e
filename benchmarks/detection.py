"""Speed of a training step of the detector against torchvision's own Mask R-CNN.

A step: losses of a batch of scenes, gradients, and an update by AdamW. Both have the same pyramid, the same numbers of anchors, proposals,
regions and convolutions, and a ViT of the same width, depth and active width as backbone: ours holds experts and windows; the reference is
timm's blocks in torchvision's ``MaskRCNN``, with its own transform, proposals, matching, pooling and losses. Where there are no compiled
operators, both take the pure ones.

The two differ. The reference resizes images and masks, and its NMS knows no limit. Ours has relative positions, for which a CPU has no
fused attention (at scale small no block has windows); with ``--attention global`` it has none, so that both compute the same attention.

``python benchmarks/detection.py --threads 1`` times them in turn, in one process, and reports medians, and the quartiles of their
ratio in a round.
"""

import json
import math
import os
import platform
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from m2mkd.config import load
from m2mkd.config.detection import DetectorConfig
from m2mkd.data.detection_stream import Target
from m2mkd.detection import operators, pure_operators
from m2mkd.detection.detector import build_detector
from m2mkd.detection.pyramid import SimpleFeaturePyramid, channel_norm
from m2mkd.detection.sampling import RandomSampler
from m2mkd.study.phases import TrainDetector
from m2mkd.study.plan import build_study

from timm.layers import PatchEmbed  # isort: skip  after m2mkd, which repairs torchvision
from timm.models.vision_transformer import Block  # isort: skip

Size = StrEnum("Size", ["small", "paper"])
Device = StrEnum("Device", ["cpu", "cuda"])
Attention = StrEnum("Attention", ["windows", "global"])
Step = Callable[[], Tensor]
INSTANCES = 2
"""In each scene."""


class Scenes(NamedTuple):
    """A batch of squares full of noise, with rectangles as instances."""

    images: list[Tensor]
    """uint8, (3, S, S)."""
    targets: list[Target]
    classes: int


def published(size: str) -> tuple[DetectorConfig, int]:
    """The detector of scale small or paper, and its number of classes."""
    settings = load.settings({"scale": size, "experiments": ["coco_vmoe_base/random"], "overrides": {"profiles": ["corrected"]}})
    config = next(run.config for run in build_study(settings).runs.values() if isinstance(run.config, TrainDetector))
    return config.model, config.data.classes


def scenes(config: DetectorConfig, classes: int, batch: int, device: str) -> Scenes:
    """The batch that both see at every step."""
    side, random = config.image_size, torch.Generator().manual_seed(0)
    images, targets = [], []
    for _ in range(batch):
        images.append(torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=random).to(device))
        corner = torch.randint(0, side // 2, (INSTANCES, 2), generator=random)
        size = torch.randint(side // 4, side // 2, (INSTANCES, 2), generator=random)
        masks = torch.zeros(INSTANCES, side, side, dtype=torch.bool)
        for mask, (x, y), (w, h) in zip(masks, corner.tolist(), size.tolist(), strict=True):
            mask[y : y + h, x : x + w] = True
        boxes = torch.cat([corner, corner + size], dim=1).float()
        labels = torch.randint(0, classes, (INSTANCES,), generator=random)
        targets.append(Target(boxes.to(device), labels.to(device), masks.to(device)))
    return Scenes(images, targets, classes)


def ours(config: DetectorConfig, given: Scenes, device: str, attention: str) -> Step:
    """A step of this project's detector, with a value of the switch ``detection_attention``."""
    torch.manual_seed(0)
    detector = build_detector(config, num_classes=given.classes, compat={"detection_attention": attention}).to(device).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4, foreach=True)
    generators = [torch.Generator().manual_seed(index) for index in range(len(given.images))]

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = detector.losses(given.images, given.targets, RandomSampler(generators)).total
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


class ViTPyramid(nn.Module):
    """A dense ViT without windows, whose active width is that of a V-MoE, and the same pyramid: a backbone as torchvision takes them."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        vit = config.backbone
        self.patch_embed = PatchEmbed(img_size=config.image_size, patch_size=vit.patch_size, embed_dim=vit.width)
        self.positions = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches, vit.width))
        wide = vit.top_k * vit.mlp_ratio
        self.blocks = nn.Sequential(*(Block(vit.width, vit.heads, mlp_ratio=wide, qkv_bias=True) for _ in range(sum(vit.depths))))
        self.pyramid = SimpleFeaturePyramid(vit.width, config.channels)
        self.out_channels = config.channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Five levels by name."""
        tokens = self.blocks(self.patch_embed(images) + self.positions)
        side = math.isqrt(tokens.shape[1])
        return OrderedDict((str(level), found) for level, found in enumerate(self.pyramid(tokens.mT.unflatten(2, (side, side)))))


def with_pure_operators() -> None:
    """Give torchvision's detectors the operators that they lack beside a CPU build of torch."""
    from torchvision.models.detection import roi_heads
    from torchvision.ops import boxes, poolers

    def nms(corners: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return pure_operators.batched_nms(corners, scores, torch.zeros_like(scores, dtype=torch.int64), threshold)

    def roi_align(
        features: Tensor, rois: Any, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = -1, aligned: bool = False
    ) -> Tensor:
        side = output_size if isinstance(output_size, int) else output_size[0]
        return pure_operators.roi_align(features, rois, side, spatial_scale, max(sampling_ratio, 0), aligned)

    boxes.nms = nms
    poolers.roi_align = roi_heads.roi_align = roi_align


def torchvisions(config: DetectorConfig, given: Scenes, device: str) -> Step:
    """The same step of torchvision's ``MaskRCNN``."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.ops import MultiScaleRoIAlign

    if not operators.COMPILED:
        with_pure_operators()
    torch.manual_seed(0)
    channels, levels = config.channels, ["0", "1", "2", "3"]
    sizes = tuple(tuple(map(int, level)) for level in config.anchor_sizes)
    side = config.image_size
    network = MaskRCNN(
        ViTPyramid(config),
        given.classes + 1,
        min_size=side,
        max_size=side,
        rpn_anchor_generator=AnchorGenerator(sizes, (tuple(config.anchor_ratios),) * len(sizes)),
        rpn_head=RPNHead(channels, len(config.anchor_ratios) * len(sizes[0]), conv_depth=config.rpn_convs),
        rpn_pre_nms_top_n_train=config.train_proposals.before_nms,
        rpn_post_nms_top_n_train=config.train_proposals.after_nms,
        rpn_batch_size_per_image=config.rpn_samples,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 0, canonical_scale=int(config.canonical_size)),
        box_head=FastRCNNConvFCHead((channels, 7, 7), [channels] * config.box_convs, [config.box_width], norm_layer=channel_norm),
        box_batch_size_per_image=config.region_samples,
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 0, canonical_scale=int(config.canonical_size)),
        mask_head=MaskRCNNHeads(channels, [channels] * config.mask_convs, 1, norm_layer=channel_norm),
        mask_predictor=None,
    )
    network.roi_heads.box_predictor = _predictor(config, given.classes)
    network.roi_heads.mask_predictor = _masks(config, given.classes)
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        # It changes its targets in place.
        targets = [{"boxes": one.boxes.clone(), "labels": one.classes + 1, "masks": one.masks.to(torch.uint8)} for one in given.targets]
        images = [image / 255 for image in given.images]
        loss = torch.stack(list(network(images, targets).values())).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _predictor(config: DetectorConfig, classes: int) -> nn.Module:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    return FastRCNNPredictor(config.box_width, classes + 1)


def _masks(config: DetectorConfig, classes: int) -> nn.Module:
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

    return MaskRCNNPredictor(config.channels, config.channels, classes + 1)


def timed(step: Step, device: str) -> float:
    """Seconds that a step takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(config: DetectorConfig, classes: int, batch: int, device: str, rounds: int, attention: str = "windows") -> dict[str, Any]:
    """Medians, and the quartiles over rounds of the ratio inside a round."""
    given = scenes(config, classes, batch, device)
    steps = {"ours": ours(config, given, device, attention), "torchvision": torchvisions(config, given, device)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        # Turn about, so that neither always follows the other.
        for name in sorted(steps, reverse=bool(number % 2)):
            taken = timed(steps[name], device)
            if number:
                seconds[name].append(taken)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["torchvision"], strict=True)]
    lower, ratio, upper = statistics.quantiles(ratios) if rounds > 1 else ratios * 3
    medians = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    return medians | {"ratio": ratio, "ratio_quartiles": [lower, upper]}


def main(
    size: Annotated[Size, typer.Option(help="small for a CPU; paper as published, 1024 pixels.")] = Size.small,
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch on the CPU.")] = 1,
    device: Annotated[Device, typer.Option()] = Device.cpu,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each.")] = 21,
    attention: Annotated[Attention, typer.Option(help="Of this detector; the reference's is global.")] = Attention.windows,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Compare a training step with that of torchvision's Mask R-CNN, in turn and in one run."""
    torch.set_num_threads(threads)
    found = measure(*published(str(size)), batch, str(device), rounds, str(attention))
    if as_json:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count(), "threads": threads}
        asked = {"size": size, "batch": batch, "device": device, "rounds": rounds, "attention": attention}
        json.dump({"machine": machine, **asked, **found}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    title = f"Training step of a detector, {size}, {attention}, batch {batch} on {device}, {threads} threads, medians of {rounds} steps"
    table = Table("torchvision's Mask R-CNN (ms)", "this detector (ms)", "ratio", "quartiles", title=title)
    table.add_row(
        *(f"{1000 * found[f'{name}_seconds']:.1f}" for name in ("torchvision", "ours")),
        f"{found['ratio']:.3f}",
        " to ".join(f"{quartile:.3f}" for quartile in found["ratio_quartiles"]),
    )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
