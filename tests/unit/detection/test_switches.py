"""Each compat switch that acts in a detector: both values, and what they change."""

import numpy as np
import pytest
import torch

from m2mkd.config import load
from m2mkd.config.detection import DetectorConfig, DetectorSwitches, Proposals
from m2mkd.config.published import published
from m2mkd.data.detection_stream import Target
from m2mkd.detection.detector import Detector
from m2mkd.detection.images import MEAN
from m2mkd.detection.layer_decay import rate_factors, spared_by_decay
from m2mkd.detection.start import start_from
from m2mkd.errors import InputError
from m2mkd.models.vmoe import VMoE
from tests.unit.detection.small import CONFIG, VIT, detector, sampler, scene


def values(switch):
    """Released and corrected value, from the registry."""
    entry = load.switches()[switch]
    return {switch: entry.released}, {switch: entry.corrected}


def test_the_registry_has_the_values_of_the_detectors_switches():
    for name, field in DetectorSwitches.model_fields.items():
        entry = load.switches()[name]
        assert field.default == entry.corrected
        assert DetectorSwitches.of({name: entry.released}) == DetectorSwitches(**{name: entry.released})
    assert DetectorSwitches.of({"expert_init": "fastmoe"}) == DetectorSwitches()


def test_detection_init():
    released, corrected = values("detection_init")
    state = VMoE(VIT, image_size=32, num_classes=3).state_dict()
    nothing, student = detector(**released), detector(**corrected)
    # 8 x 8 places of the input without a class token's row, or the 4 x 4 of the V-MoE with it.
    assert nothing.backbone.stages[0].pos_embed.shape == (1, 64, 16)
    assert student.backbone.stages[0].pos_embed.shape == (1, 17, 16)
    with pytest.raises(InputError, match="detection_init none"):
        start_from(nothing, state)
    start_from(student, state)
    assert torch.equal(student.backbone.stages[0].pos_embed, state["stages.0.pos_embed"].double())


def test_detection_input():
    released, corrected = values("detection_input")
    image, _ = scene(0, 0, 100, 80)
    corner = detector(**released)
    assert torch.equal(corner.batched([image]), corner.batched([image[:, :64, :64]]))
    with pytest.raises(InputError, match="100 x 80 pixels does not fit the detector's square of 64; resize it first"):
        detector(**corrected).batched([image])
    # Boxes and size stay those of the whole image, which alone decide where proposals may lie.
    scored = corner.rpn(corner.maps([image]))
    many = Proposals(before_nms=1000, after_nms=1000)
    whole, seen = (corner.rpn.propose(scored, [size], many)[0].boxes for size in ((100, 80), (64, 64)))
    assert whole[:, 3].max() > 64 >= seen[:, 3].max()


def test_unreachable():
    released, corrected = values("unreachable")
    image, target = scene(0, 1)
    beyond = Target(torch.cat([target.boxes, torch.tensor([[900.0, 900, 910, 910]])]), torch.tensor([0, 1]), [(np.eye(3, 2) * 9,)] * 2)
    counts = {}
    for name, compat in (("released", released), ("corrected", corrected)):
        network = detector(**compat, detection_input="corner")
        seen = []

        def watching(stage, image, labels, number, positive, seen=seen):
            seen.append(labels)
            return sampler(0)(stage, image, labels, number, positive)

        network.losses([image], [beyond], watching)
        counts[name] = int((seen[0] == 1).sum()), len(seen[0])
    assert counts["released"][0] == counts["released"][1], "all anchors stand for it"
    assert 0 < counts["corrected"][0] < 20


def test_channel_order():
    released, corrected = values("channel_order")
    image = torch.tensor(MEAN).view(3, 1, 1).expand(-1, 64, 64)
    assert not detector(**corrected).batched([image]).any()
    means = detector(**released).batched([image]).mean(dim=(0, 2, 3))
    assert means.tolist() == pytest.approx([(103.53 - 123.675) / 58.395, 0, (123.675 - 103.53) / 57.375])
    other, _ = scene(1, 0)
    assert torch.equal(detector(**released).batched([other]), detector(**corrected).batched([other.flip(0)]))


def test_detection_attention():
    released, corrected = values("detection_attention")
    config = CONFIG.model_copy(update={"global_blocks": (1,)})
    everywhere, windows = detector(config, **released), detector(config, **corrected)
    tables = {name for name in windows.state_dict() if "rel_pos" in name}
    assert windows.state_dict().keys() - everywhere.state_dict().keys() == tables
    assert len(tables) == 4
    image, other = scene(0, 0)[0], scene(0, 0)[0]
    other[:, :8, :8] = 255 - other[:, :8, :8]
    for network, reached in ((everywhere, 64), (windows, 16)):
        first = network.backbone.stages[0]
        torch.nn.init.normal_(first.blocks[0].attn.qkv.weight, std=0.5)
        out, after = (first.blocks[0](first.embed(network.batched([pixels]))) for pixels in (image, other))
        assert ((out - after).abs().amax(dim=-1) > 1e-9).sum() == reached


def test_layer_decay():
    released, corrected = values("layer_decay")
    vit = published("vmoe_base")
    with torch.device("meta"):
        networks = [Detector(DetectorConfig(backbone=vit), 80, DetectorSwitches.of(compat)) for compat in (released, corrected)]
    by_stage, by_block = (rate_factors(network, 0.7) for network in networks)
    norms = [f"backbone.stages.{i}.blocks.{j}.norm1.weight" for i in range(4) for j in range(3)]
    assert [by_stage[name] for name in norms] == pytest.approx([0.7**12, 0.7**11, 0.7**10] * 4)
    assert [by_block[name] for name in norms] == pytest.approx([0.7 ** (12 - i) for i in range(12)])
    for network, factors in zip(networks, (by_stage, by_block), strict=True):
        assert factors.keys() == dict(network.named_parameters()).keys()
        assert factors["backbone.stages.0.pos_embed"] == factors["backbone.stages.0.patch_embed.proj.weight"] == pytest.approx(0.7**13)
        assert factors["pyramid.levels.0.0.weight"] == factors["heads.class_logits.bias"] == factors["rpn.head.cls_logits.bias"] == 1


def test_weight_decay_spares_positions_and_the_backbones_norms():
    network = detector()
    spared = spared_by_decay(network)
    norms = {f"backbone.stages.{i}.blocks.0.norm{j}.{part}" for i in range(2) for j in (1, 2) for part in ("weight", "bias")}
    assert spared == {"backbone.stages.0.pos_embed", *norms}
    more = spared_by_decay(network, channel_norms=True) - spared
    # A norm in the middle of the first level, two at the end of each of the four, and one after each convolution of the heads.
    assert len(more) == 2 * (1 + 2 * 4 + 2)
    assert all(name.startswith(("pyramid.", "heads.")) and network.get_parameter(name).ndim == 1 for name in more)
