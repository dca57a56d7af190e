"""Configuration of a detector: published sizes, those of the small set, and what is refused."""

import math

import pytest
import torch
from torch import nn

from m2mkd.config.detection import DetectorConfig, DetectorSwitches, Proposals
from m2mkd.config.load import checked
from m2mkd.config.models import VMoEConfig
from m2mkd.config.published import published
from m2mkd.detection.detector import Detector, build_detector
from m2mkd.errors import InputError
from tests.unit.detection.small import CLASSES, CONFIG, detector

PARTS = ("backbone", "pyramid", "rpn", "heads")


def sizes(network):
    return {part: sum(parameter.numel() for parameter in getattr(network, part).parameters()) for part in PARTS}


def test_the_published_sizes():
    switches = DetectorSwitches(detection_init="none", detection_attention="global")
    with torch.device("meta"):
        network = Detector(DetectorConfig(backbone=published("vmoe_base"), image_size=224), 80, switches)
    # Heads: 15,618,449 of the boxes and 2,644,304 of the masks (detection.md 5).
    assert sizes(network) == {"backbone": 482_553_696, "pyramid": 5_560_000, "rpn": 1_184_015, "heads": 18_262_753}
    assert sum(sizes(network).values()) == 507_560_464


def test_the_corrected_sizes():
    with torch.device("meta"):
        network = Detector(DetectorConfig(backbone=published("vmoe_base")), 80, DetectorSwitches())
    tables = 64 * 2 * (8 * (2 * 14 - 1) + 4 * (2 * 64 - 1))
    assert sizes(network)["backbone"] == 482_553_696 + 768 + tables


def test_the_sizes_of_the_small_set():
    config = DetectorConfig(
        backbone=VMoEConfig(patch_size=8, width=48, heads=4, depths=(1, 1, 1, 1), experts=4),
        image_size=64,
        pretrain_size=32,
        channels=24,
        anchor_sizes=((16,), (32,), (64,), (128,), (256,)),
        rpn_samples=64,
        train_proposals=Proposals(before_nms=300, after_nms=100),
        test_proposals=Proposals(before_nms=200, after_nms=60),
        region_samples=24,
        canonical_size=112,
        box_convs=2,
        box_width=64,
        mask_convs=2,
        detections=20,
    )
    assert config.strides == (2, 4, 8, 16, 32)
    network = build_detector(config, num_classes=10, compat={"detection_attention": "global"})
    # The trial's 350,464 held a class token, a final norm and 64 + 1 positions, and its heads a class more (detection-small.md).
    assert sizes(network)["backbone"] == 350_464 - 48 - 2 * 48 - 48 * (65 - 17)
    assert sum(sizes(network).values()) == 498_453 - 2_448 - (4 * 65 + 25)


def test_initial_weights():
    network = build_detector(CONFIG.model_copy(update={"channels": 64, "box_width": 128}), num_classes=CLASSES, compat={})

    def spread(module):
        assert module.bias is None or not module.bias.any()
        return module.weight.std().item()

    heads, rpn = network.heads, network.rpn.head
    for layer in (rpn.conv[0][0], rpn.cls_logits, rpn.bbox_pred, heads.class_logits):
        assert spread(layer) == pytest.approx(0.01, rel=0.2)
    for layer in (heads.box_deltas, heads.mask_logits.mask_fcn_logits):
        assert spread(layer) == pytest.approx(0.001, rel=0.2)
    for layer in (heads.box_head[0][0], heads.mask_head[0][0]):
        assert spread(layer) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.1)
    assert spread(heads.mask_logits.conv5_mask) == pytest.approx(math.sqrt(2 / (64 * 4)), rel=0.1)
    linear = next(layer for layer in heads.box_head if isinstance(layer, nn.Linear))
    assert spread(linear) == pytest.approx(math.sqrt(1 / linear.in_features), rel=0.05)
    assert linear.weight.abs().max() <= math.sqrt(3 / linear.in_features)
    first = network.backbone.stages[0]
    assert first.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    assert spread(first.blocks[0].attn.qkv) == pytest.approx(0.02, rel=0.1)


def test_compat_reaches_the_experts_and_the_switches():
    published_start = detector(expert_init="fastmoe", unreachable="positive")
    assert published_start.switches == DetectorSwitches(unreachable="positive")
    assert published_start.backbone.stages[0].blocks[0].mlp.fc1.weight.abs().max() <= 1 / math.sqrt(16 * 64)
    assert detector().backbone.stages[0].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_every_field_round_trips():
    assert DetectorConfig.model_validate_json(CONFIG.model_dump_json()) == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 60}, "image_size 60 is not a multiple of patch_size 8; change either"),
        ({"pretrain_size": 30}, "pretrain_size 30 is not a multiple of patch_size 8"),
        ({"backbone": {"patch_size": 14}}, "not a multiple of patch_size 14"),
        ({"backbone": {"patch_size": 2}}, "patch_size 2 is not a multiple of 4, which the pyramid's finest stride needs; change it"),
        ({"backbone": {"width": 18}}, "backbone.width 18 is not a multiple of 4"),
        ({"backbone": {"stitch": "kept"}}, "backbone.stitch kept: the detector has no stitch layers"),
        ({"global_blocks": [0, 2]}, "global_blocks names block 2, but there are blocks 0 to 1; name one of these"),
        ({"anchor_sizes": [[8], [16]]}, "anchor_sizes"),
        ({"anchor_sizes": [[8], [16], [32], [64, 65], [128]]}, "anchor_sizes has levels with different numbers of sizes"),
        ({"anchor_ratios": []}, "anchor_ratios"),
        ({"chanels": 3}, "chanels is not a known field; did you mean 'channels'?"),
        ({"detections": 0}, "detections"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    content = CONFIG.model_dump()
    content |= change | ({"backbone": content["backbone"] | change["backbone"]} if "backbone" in change else {})
    with pytest.raises(InputError, match=r"(?s)^detector: .*") as error:
        checked(DetectorConfig, content, "detector")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_switch_has_two_values():
    with pytest.raises(InputError, match=r"^compat: detection_input: Input should be 'corner' or 'whole' \(it is 'centre'\)$"):
        DetectorSwitches.of({"detection_input": "centre"})
