"""The released detector's files and configurations: every layout, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from m2mkd import upstream
from m2mkd.config.detection import DetectorConfig, DetectorSwitches, Proposals
from m2mkd.config.published import published
from m2mkd.detection import names
from m2mkd.detection.detector import Detector
from m2mkd.errors import InputError
from m2mkd.seeds import forked_rng
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.imported import open_imported

NET = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 16,
    "num_heads": 2,
    "mlp_ratio": 2,
    "divided_depths": [1, 2],
    "moe_pos": [0, 2],
    "num_expert": 3,
}
SIZES = {
    "num_classes": 3,
    "out_channels": 8,
    "anchor_sizes": [[8], [16], [32], [64], [128]],
    "rpn_batch": 16,
    "roi_batch": 8,
    "pre_nms_topk": [40, 30],
    "post_nms_topk": [20, 10],
    "fc_dim": 12,
    "detections": 5,
}
CONFIG = SIZES | {"kind": "released", "square_pad": 64, "net": NET}
VITDET_NET = {
    "img_size": 64,
    "patch_size": 16,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "mlp_ratio": 2,
    "window_size": 2,
    "window_block_indexes": [0, 1],
    "pretrain_img_size": 32,
    "moe_pos": [1],
    "num_expert": 3,
}
VITDET = SIZES | {"kind": "vitdet", "square_pad": 0, "net": VITDET_NET}
IMAGES = list(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def network(config=CONFIG):
    """A detector of that configuration with weights of which none is zero or one."""
    description = describe_checkpoint("vmoe_detector", config, {})
    detector = Detector(description.architecture, description.num_classes, description.switches)
    with forked_rng("detector"), torch.no_grad():
        for parameter in detector.parameters():
            parameter.normal_(std=0.2)
    return detector.eval()


def released_state(detector, *layouts):
    """State dict by released names; ``layouts`` pick from the ways in which each tensor may be held."""
    state = {}
    for name, tensor in detector.state_dict().items():
        ways = names.sources(detector.config, name, tuple(tensor.shape))
        for way in {ways[layout % len(ways)] for layout in layouts}:
            state |= dict(zip(way.names, tensor.chunk(len(way.names)), strict=True))
    return state


def same(detector, other):
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in detector.state_dict().items())


def test_names_of_the_released_layouts():
    ways = {
        name: names.sources(describe_checkpoint("vmoe_detector", CONFIG, {}).architecture, name, (1,)) for name in network().state_dict()
    }
    first = {name: way[0].names[0] for name, way in ways.items()}
    assert first["backbone.stages.1.blocks.1.mlp.gate.weight"] == "backbone.net.stages.1.blocks.1.moe.gate.gate.weight"
    assert first["backbone.stages.1.blocks.0.mlp.fc1.weight"] == "backbone.net.stages.1.blocks.0.mlp.fc1.weight"
    assert "backbone.net.blocks.2.mlp.gate.gate.weight" in {way.names[0] for way in ways["backbone.stages.1.blocks.1.mlp.gate.weight"]}
    assert "backbone.net.pos_embed" in {way.names[0] for way in ways["backbone.stages.0.pos_embed"]}
    assert first["pyramid.levels.0.1.bias"] == "backbone.simfp_2.1.bias"
    assert first["pyramid.levels.0.3.bias"] == "backbone.simfp_2.3.bias"
    assert first["pyramid.levels.3.1.0.weight"] == "backbone.simfp_5.1.weight"
    assert first["pyramid.levels.3.2.1.bias"] == "backbone.simfp_5.2.norm.bias"
    assert first["heads.box_head.3.1.bias"] == "roi_heads.box_head.conv4.norm.bias"
    assert first["heads.box_head.5.weight"] == "roi_heads.box_head.fc1.weight"
    assert first["heads.mask_head.0.0.weight"] == "roi_heads.mask_head.mask_fcn1.weight"


@pytest.mark.parametrize("layouts", [(0,), (1,), (2,), (3,), (0, 2), (0, 1, 2, 3)])
def test_tensors_are_found_in_every_layout(layouts):
    # One expert each or fused, in stages or flat, and each tensor under both of its names.
    ours = network()
    assert same(ours, upstream.load("vmoe_detector", released_state(ours, *layouts), CONFIG))


@pytest.mark.parametrize("layouts", [(-1,), (-2,), (-3,), (-4,)])
def test_vitdets_blocks_call_their_experts_mlp(layouts):
    ours = network(VITDET)
    assert same(ours, upstream.load("vmoe_detector", released_state(ours, *layouts), VITDET))


def test_a_training_checkpoint_will_do():
    ours = network()
    state = {f"module.{name}": tensor for name, tensor in released_state(ours, 0, 2).items()}
    loaded = upstream.load("vmoe_detector", {"model": state, "optimizer": {}, "iteration": 9}, CONFIG)
    assert same(ours, loaded)
    assert not loaded.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("roi_heads.box_head.fc1.weight"), r"lacks roi_heads.box_head.fc1.weight of shape \(12, 392\)"),
        (lambda s: s.pop("backbone.net.stages.0.blocks.0.moe.experts.1.htoh4.bias"), r"lacks .*experts.1.htoh4.bias of shape \(1, 32\)"),
        (lambda s: s.update({"backbone.net.stages.0.cls_token": torch.zeros(1, 1, 16)}), r"has backbone.net.stages.0.cls_token of shape"),
        (lambda s: s.update({"backbone.net.stages.0.pos_embed": torch.zeros(1, 65, 16)}), r"has shape \(1, 65, 16\), expected \(1, 64"),
        (lambda s: s.update({"backbone.simfp_4.0.weight": torch.zeros(8, 16, 3, 3)}), r"has shape \(8, 16, 3, 3\), expected \(8, 16, 1"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    state = released_state(network(), 0)
    change(state)
    with pytest.raises(InputError, match=message):
        upstream.load("vmoe_detector", state, CONFIG)


def test_the_checkpoint_of_a_v_moe_is_none_of_a_detector():
    # What the release does with one: not a name fits, and nothing is loaded.
    state = {name.removeprefix("backbone.net."): tensor for name, tensor in released_state(network(), 0).items() if ".net." in name}
    with pytest.raises(InputError, match=r"lacks backbone\.net\.stages\.0\.pos_embed"):
        upstream.load("vmoe_detector", state, CONFIG)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_without_a_word_it_is_the_published_one():
    shapes = {f"backbone.net.stages.{i}.blocks.{j}.norm1.weight": (768,) for i in range(4) for j in range(3)}
    description = describe_checkpoint("vmoe_detector", {}, shapes)
    expected = DetectorConfig(backbone=published("vmoe_base"), image_size=224, pretrain_size=224)
    assert description.architecture == expected
    assert (description.image_size, description.num_classes, description.whole) == (224, 80, False)
    assert description.switches == DetectorSwitches(
        detection_init="none",
        detection_input="corner",
        unreachable="positive",
        detection_attention="global",
        layer_decay="stage",
    )


def test_a_description_follows_again_from_its_own_configuration():
    shapes = {f"backbone.net.stages.{i}.blocks.0.norm1.weight": (16,) for i in range(2)}
    net = {key: value for key, value in NET.items() if key not in ("divided_depths", "moe_pos")}
    for config, known in ((CONFIG | {"net": net}, shapes), (VITDET, {})):
        description = describe_checkpoint("vmoe_detector", config, known)
        assert describe_checkpoint("vmoe_detector", json.loads(json.dumps(description.config)), {}) == description


def test_sizes_of_the_recorded_vocabulary():
    config = describe_checkpoint("vmoe_detector", VITDET, {}).architecture
    assert config.padding == "largest"
    assert (config.image_size, config.pretrain_size, config.window_size, config.global_blocks) == (64, 32, 2, (2,))
    assert config.backbone.moe_blocks == (1,)
    assert (config.train_proposals, config.test_proposals) == (
        Proposals(before_nms=40, after_nms=20),
        Proposals(before_nms=30, after_nms=10),
    )
    assert (config.rpn_samples, config.region_samples, config.box_width, config.channels, config.detections) == (16, 8, 12, 8, 5)
    square = describe_checkpoint("vmoe_detector", VITDET | {"square_pad": 64}, {}).architecture
    assert square == config.model_copy(update={"padding": "square"})
    plain = describe_checkpoint("vmoe_detector", VITDET | {"net": VITDET_NET | {"use_rel_pos": False, "window_size": 0}}, {}).architecture
    assert (plain.relative_positions, plain.global_positions) == (False, (0, 1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"square_pad": 0}, "config: square_pad 0 is not the img_size 64 of net; give the same for both"),
        ({"square_pad": 128}, "config: square_pad 128 is not the img_size 64 of net; give the same for both"),
        ({"kind": "mask_rcnn"}, "config: kind: Input should be 'released' or 'vitdet'"),
        ({"rpn_bach": 3}, "config: rpn_bach is not a known field; did you mean 'rpn_batch'?"),
        ({"pre_nms_topk": [3]}, "config: pre_nms_topk"),
        ({"net": NET | {"embed_dims": 3}}, "config: net: embed_dims is not a known field; did you mean 'embed_dim'?"),
        ({"net": NET | {"moe_pos": [5]}}, "config: net: moe_pos has 5, but divided_depths has blocks 0 to 2; correct one of them"),
        ({"net": NET | {"pre_stitch_pos": [1]}}, "config: net: pre_stitch_pos"),
        ({"net": NET | {"embed_dim": 18}}, "backbone.width 18 is not a multiple of 4"),
        ({"net": 3}, "config: net: "),
    ],
)
def test_configurations_that_do_not_fit_are_refused(change, message):
    with pytest.raises(InputError) as error:
        describe_checkpoint("vmoe_detector", CONFIG | change, {})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# --- import ----------------------------------------------------------------------------------------------------------


def test_import_keeps_what_it_finds(typed, tmp_path):
    ours = network()
    file, config, output = (tmp_path / name for name in ("model_final.safetensors", "config.json", "detector.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in released_state(ours, 0).items()}, file)
    config.write_text(json.dumps(CONFIG))
    code, out, _ = typed("import", file, "--kind", "vmoe_detector", "--config", config, "-o", output)
    assert code == 0 and f"vmoe_detector, {len(ours.state_dict())} tensors" in out
    imported = open_imported(output)
    assert imported.architecture == ours.config
    again = imported.build()
    assert again.switches == ours.switches
    for one, other in zip(ours(IMAGES), again(IMAGES), strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.masks, other.masks)


def test_a_detector_has_no_accuracy(typed, tmp_path):
    from m2mkd.upstream.imported import open_released
    from m2mkd.upstream.measure import measure_imported

    file = tmp_path / "model_final.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in released_state(network(), 0).items()}, file)
    with pytest.raises(InputError, match="a vmoe_detector does not map images to logits; only whole classifiers have an accuracy"):
        measure_imported(open_released(file, "vmoe_detector", CONFIG), None, torch.device("cpu"))
