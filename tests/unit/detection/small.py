"""A detector of small size for the tests, and scenes for it."""

from typing import Any

import torch

from m2mkd.config.detection import DetectorConfig, Proposals
from m2mkd.config.models import VMoEConfig
from m2mkd.data.detection_stream import Target
from m2mkd.detection.detector import Detector, build_detector
from m2mkd.detection.sampling import RandomSampler
from m2mkd.seeds import forked_rng

VIT = VMoEConfig(patch_size=8, width=16, heads=2, depths=(1, 1), experts=4)
CONFIG = DetectorConfig(
    backbone=VIT,
    image_size=64,
    pretrain_size=32,
    window_size=4,
    channels=8,
    anchor_sizes=((16,), (32,), (64,), (128,), (256,)),
    rpn_samples=32,
    train_proposals=Proposals(before_nms=60, after_nms=20),
    test_proposals=Proposals(before_nms=40, after_nms=10),
    region_samples=16,
    canonical_size=112,
    box_convs=1,
    box_width=12,
    mask_convs=1,
    detections=5,
)
CLASSES = 3


def detector(config: DetectorConfig = CONFIG, drop_path: float = 0.0, **compat: Any) -> Detector:
    """In double precision, so that equal is equal."""
    with forked_rng("detector"):
        return build_detector(config, num_classes=CLASSES, drop_path=drop_path, compat=compat).double()


def scene(seed: int, instances: int, height: int = 64, width: int = 64) -> tuple[torch.Tensor, Target]:
    """An image of noise, and rectangles in it as bitmaps."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=random)
    masks = torch.zeros(instances, height, width, dtype=torch.bool)
    boxes = []
    for mask in masks:
        x, y = torch.randint(0, 30, (2,), generator=random).tolist()
        w, h = torch.randint(8, 30, (2,), generator=random).tolist()
        mask[y : y + h, x : x + w] = True
        boxes.append([x, y, x + w, y + h])
    classes = torch.randint(0, CLASSES, (instances,), generator=random)
    return image, Target(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), classes, masks)


def sampler(*seeds: int) -> RandomSampler:
    return RandomSampler([torch.Generator().manual_seed(seed) for seed in seeds])
