"""Effects of the compat switches that act in the detector, at its published size."""

import torch
from deviations_models import PAPER, Effect, both
from torch import Tensor

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.detection.anchors import level_anchors
from m2mkd.detection.detector import Detector
from m2mkd.detection.images import MEAN, batched
from m2mkd.detection.layer_decay import rate_factors
from m2mkd.detection.sampling import match_anchors
from m2mkd.detection.start import start_from
from m2mkd.errors import InputError
from m2mkd.models.vmoe import VMoE
from m2mkd.training.phases.train_detector import FVCORE_SLACK

RELEASED = DetectorConfig(backbone=PAPER.models["vmoe_base"], image_size=224)
CORRECTED = DetectorConfig(backbone=PAPER.models["vmoe_base"])
LANDSCAPE = 800, 1066
"""Height and width in pixels of a photograph of 4:3 as the released evaluation resizes it."""


def network(compat: dict) -> Detector:
    """Without memory for its weights."""
    with torch.device("meta"):
        return Detector(CORRECTED, 80, DetectorSwitches.of(compat))


def detection_init() -> Effect:
    """Share of the backbone that comes from the V-MoE (V7)."""
    with torch.device("meta"):
        student = VMoE(CORRECTED.backbone, image_size=224, num_classes=1000).state_dict()

    def measure(compat: dict) -> float:
        detector = network(compat)
        sizes = {f"backbone.{name}": tensor.numel() for name, tensor in detector.backbone.state_dict().items()}
        try:
            left = start_from(detector, student)
        except InputError:
            return 0.0
        return 100 * sum(size for name, size in sizes.items() if name not in left) / sum(sizes.values())

    return both("detection_init", "parameters of the backbone that start from the V-MoE's", measure, "{:.2f} %")


def detection_input() -> Effect:
    """Share of a photograph that is seen (V8)."""

    def measure(compat: dict) -> float:
        switches = DetectorSwitches.of(compat)
        height, width = LANDSCAPE if switches.detection_input == "corner" else (768, 1024)
        config = RELEASED if switches.detection_input == "corner" else CORRECTED
        image = torch.full((3, height, width), 255, dtype=torch.uint8)
        return 100 * (batched([image], config, switches, torch.float32)[0, 0] != 0).sum().item() / (height * width)

    return both("detection_input", "pixels of a photograph of 4:3 that are seen, square of 224 and of 1024", measure, "{:.1f} %")


def unreachable() -> Effect:
    """Positive anchors of an image with an instance beyond the reach of all of them (V8)."""

    def measure(compat: dict) -> int:
        levels = zip((56, 28, 14, 7, 4), RELEASED.strides, RELEASED.anchor_sizes, strict=True)
        anchors = torch.cat([level_anchors(side, side, stride, sizes, RELEASED.anchor_ratios) for side, stride, sizes in levels])
        boxes = torch.tensor([[40.0, 40, 120, 150], [600, 600, 700, 700]])
        return int((match_anchors(boxes, anchors, DetectorSwitches.of(compat))[0] == 1).sum())

    measured = "anchors of 12543 that are positive, an instance of 80 x 110 pixels and one that no anchor meets"
    return both("unreachable", measured, measure, "{}")


def channel_order() -> Effect:
    """Normalised mean of red (V9)."""
    image: Tensor = torch.tensor(MEAN).view(3, 1, 1).expand(-1, 224, 224)

    def measure(compat: dict) -> float:
        return batched([image], RELEASED, DetectorSwitches.of(compat), torch.float32)[0, 0].mean().item()

    return both("channel_order", "first channel of an image of ImageNet's mean colour, normalised", measure)


def layer_decay() -> Effect:
    """Learning rate of the last block (V10)."""

    def measure(compat: dict) -> float:
        return rate_factors(network(compat), 0.7)["backbone.stages.3.blocks.2.attn.qkv.weight"]

    return both("layer_decay", "learning rate of the last block over that of the heads", measure)


def detection_attention() -> Effect:
    """Pairs of places that attend to each other (V11)."""

    def measure(compat: dict) -> float:
        side = CORRECTED.image_size // CORRECTED.stride
        blocks = [block for stage in network(compat).backbone.stages for block in stage.blocks]
        windows = [block.window_size or side for block in blocks]
        return sum((-(-side // size)) ** 2 * size**4 for size in windows) / 1e6

    return both(
        "detection_attention", "pairs of places whose attention is computed, 12 blocks, an image of 1024 pixels", measure, "{:.1f} M"
    )


def schedule_slack() -> Effect:
    """Updates whose learning rate is another than the configuration says (D21)."""
    recipe = PAPER.detection_recipes["detection_released"]
    limits = (recipe.warmup_updates, *recipe.milestones)
    near = [update for limit in limits for update in range(limit - 5, limit + 5)]

    def measure(compat: dict) -> int:
        slack = FVCORE_SLACK * recipe.updates if compat["schedule_slack"] == "fvcore" else 0.0
        return sum(recipe.rate_factor(update, slack) != recipe.rate_factor(update) for update in near)

    return both("schedule_slack", "updates of 1,475,000 at another rate than the configuration names", measure, "{}")


DETECTOR = (detection_init, detection_input, unreachable, channel_order, layer_decay, detection_attention, schedule_slack)
"""Below half a second each."""
