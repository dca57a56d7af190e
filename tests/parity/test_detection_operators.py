"""Operators, boxes, targets and optimiser groups of the detector against recordings of the released functions (detection.md 8)."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.config.models import VMoEConfig
from m2mkd.config.published import published
from m2mkd.data.detection_stream import Target
from m2mkd.detection import heads, names, operators, pure_operators, rpn
from m2mkd.detection.anchors import level_anchors
from m2mkd.detection.attention import MapAttention, cut_windows, join_windows
from m2mkd.detection.backbone import resized_positions
from m2mkd.detection.detections import Detections
from m2mkd.detection.detector import Detector
from m2mkd.detection.layer_decay import rate_factors, spared_by_decay
from m2mkd.detection.pooling import region_levels
from m2mkd.detection.pyramid import channel_norm
from m2mkd.detection.sampling import ANCHOR_MATCHER, REGION_MATCHER, RandomSampler
from m2mkd.detection.targets import mask_targets
from tests.parity.released import outlines

EXACT = 1e-12
RECORDED_POOLING = [(7, 0, "aligned"), (7, 0, "legacy"), (7, 2, "aligned"), (7, 2, "legacy"), (14, 0, "aligned")]


def chosen_roi_align(features, boxes, size, scale, sampling, aligned):
    return operators.roi_align(features, boxes, size, scale, sampling=sampling, aligned=aligned)


@pytest.fixture(scope="module")
def ops(fixtures_dir: Path) -> dict[str, Tensor]:
    return load_file(fixtures_dir / "detection" / "ops.safetensors")


@pytest.fixture(scope="module")
def meta(fixtures_dir: Path) -> dict:
    return json.loads((fixtures_dir / "detection" / "ops.meta.json").read_text())


def close(ours: Tensor, theirs: Tensor, tolerance: float = EXACT) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert ((ours.detach() - theirs).abs().max() / theirs.abs().max()).item() <= tolerance


@pytest.mark.parametrize("roi_align", [chosen_roi_align, pure_operators.roi_align])
@pytest.mark.parametrize(("size", "sampling", "kind"), RECORDED_POOLING)
def test_roi_align(ops, size, sampling, kind, roi_align):
    key = f"roi_align.size{size}.sampling{sampling}.{kind}"
    features = ops["roi_align.features"].clone().requires_grad_()
    pooled = roi_align(features, ops["roi_align.rois"], size, 0.25, sampling, kind == "aligned")
    pooled.backward(torch.arange(pooled.numel(), dtype=pooled.dtype).cos().view_as(pooled))
    close(pooled[:: 3 if size == 14 else 1], ops[key])
    close(features.grad, ops[f"{key}.grad"])


@pytest.mark.parametrize("batched_nms", [operators.batched_nms, pure_operators.batched_nms])
def test_nms(ops, batched_nms):
    for threshold in (0.3, 0.5, 0.7):
        arguments = ops["nms.boxes"], ops["nms.scores"], ops["nms.groups"], threshold
        assert torch.equal(batched_nms(*arguments), ops[f"nms.keep.{threshold}"])
        assert torch.equal(batched_nms(*arguments, 20), ops[f"nms.keep.{threshold}"][:20])


@pytest.mark.parametrize(("name", "coder"), [("1x1x1x1", rpn.ANCHOR_CODER), ("10x10x5x5", heads.REGION_CODER)])
def test_box_coder(ops, name, coder):
    assert torch.equal(coder.encode_single(ops["coder.target"], ops["coder.source"]), ops[f"coder.{name}.deltas"])
    assert torch.equal(coder.decode_single(ops[f"coder.{name}.input"], ops["coder.source"]).flatten(1), ops[f"coder.{name}.decoded"])


def test_region_levels(ops):
    assert torch.equal(region_levels(ops["levels.boxes"], 224), ops["levels.level"])


@pytest.mark.parametrize(
    ("name", "matcher", "quality"),
    [
        ("rpn", ANCHOR_MATCHER, "matcher.quality"),
        ("roi", REGION_MATCHER, "matcher.quality"),
        ("unreachable", ANCHOR_MATCHER, "matcher.unreachable.quality"),
    ],
)
def test_matchers(ops, name, matcher, quality):
    matched = matcher(ops[quality])
    labels = torch.where(matched >= 0, 1, torch.where(matched == -1, 0, -1))
    assert torch.equal(labels, ops[f"matcher.{name}.labels"].long())
    assert torch.equal(ops[quality].max(dim=0).indices, ops[f"matcher.{name}.matches"])


def test_sampling_draws_what_the_released_code_draws(ops, meta):
    labels = ops["sampling.labels"]
    for case in range(3):
        about = meta[f"sampling.{case}"]
        number, background = about["number"], about["background"]
        ours = torch.where(labels == background, 0, torch.where(labels == -1, -1, 1))
        sampler = RandomSampler([torch.Generator().manual_seed(about["torch_manual_seed"])])
        drawn = sampler("anchors", 0, ours, number, int(number * about["positive_fraction"]))
        assert torch.equal(drawn[0], ops[f"sampling.{case}.positive"])
        assert torch.equal(drawn[1], ops[f"sampling.{case}.negative"])


def test_mask_targets(ops, meta):
    boxes, everything = ops["mask_targets.boxes"], torch.arange(5)
    drawn = Target(boxes, everything, outlines(meta["mask_targets.polygons"]))
    assert torch.equal(mask_targets([drawn], [everything], [boxes]), ops["mask_targets.polygon"].bool())
    height, width = meta["mask_targets.height_width"]
    bitmaps = np.unpackbits(ops["mask_targets.full"].numpy(), axis=1)[:, : height * width].reshape(-1, height, width)
    maps = Target(boxes, everything, torch.from_numpy(bitmaps).bool())
    assert torch.equal(mask_targets([maps], [everything], [boxes]), ops["mask_targets.bitmask"].bool())


def test_pasting(ops, meta):
    height, width = meta["paste.height_width"]
    found = Detections(ops["paste.boxes"], torch.ones(5), torch.zeros(5, dtype=torch.int64), ops["paste.masks"])
    bits = np.packbits(found.bitmaps(height, width).flatten(1).numpy(), axis=1)
    assert np.array_equal(bits, ops["paste.bits"].numpy())


def test_channel_norm(ops):
    norm = channel_norm(6).double()
    norm.load_state_dict({"weight": ops["channel_norm.weight"], "bias": ops["channel_norm.bias"]})
    close(norm(ops["channel_norm.input"]), ops["channel_norm.output"])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 8), (6, 10), (3, 2)])
def test_positions(ops, height, width):
    close(resized_positions(ops["positions.with_class_token"], height, width), ops[f"positions.grid{height}x{width}"])


def test_windows(ops, meta):
    windows = cut_windows(ops["windows.input"], 4)
    assert torch.equal(windows, ops["windows.size4"])
    assert torch.equal(join_windows(windows, 6, 10), ops["windows.back"])
    assert windows.numel() == 2 * 4 * np.prod(meta["windows.padded"])


@pytest.mark.parametrize("resized", [False, True])
def test_relative_positions(ops, resized):
    # One head for each of the three: queries are given, keys are zero, so that only the positions decide on the attention.
    q, width = ops["relative.q"], ops["relative.q"].shape[-1]
    attention = MapAttention(width, 1, qkv_bias=False, table_size=4).double()
    tables = (ops["relative.h_resized_from"], ops["relative.w"]) if resized else (ops["relative.h"], ops["relative.w"])
    attention.rel_pos_h, attention.rel_pos_w = (torch.nn.Parameter(table) for table in tables)
    identity = torch.eye(width, dtype=torch.float64)
    attention.qkv.weight.data = torch.cat([identity, 0 * identity, identity])
    attention.proj.weight.data, attention.proj.bias.data = identity, torch.zeros(width, dtype=torch.float64)
    recorded = ops["relative.grid4x6.resized"] if resized else ops["relative.grid4x6"]
    recorded = recorded - ops["relative.scores"]
    close(attention(q.unflatten(1, (4, 6))).flatten(1, 2), recorded.softmax(dim=-1) @ q)


def test_anchors(ops, meta):
    for level, size in enumerate((32, 64, 128, 256, 512), 2):
        side = -(-224 // 2**level)
        anchors = level_anchors(side, side, 2**level, (size,), (0.5, 1, 2))
        assert torch.equal(anchors[:15], ops[f"anchors.p{level}.first_15"])
        assert torch.equal(anchors[-3:], ops[f"anchors.p{level}.last_3"])
        assert anchors.double().abs().sum().item() == pytest.approx(meta[f"anchors.p{level}.sum_of_abs"], rel=1e-12)


# --- the network at full size ----------------------------------------------------------------------------------------


def full_size(name: str) -> Detector:
    """The released network, or ViTDet-B, on the meta device."""
    if name == "released":
        config = DetectorConfig(backbone=published("vmoe_base"), image_size=224)
        switches = DetectorSwitches(detection_init="none", detection_attention="global", layer_decay="stage")
    else:
        vit = VMoEConfig(patch_size=16, width=768, heads=12, depths=(12,), moe_blocks=())
        config, switches = DetectorConfig(backbone=vit, global_blocks=(2, 5, 8, 11)), DetectorSwitches()
    with torch.device("meta"):
        return Detector(config, 80, switches)


def by_released_name(detector: Detector, known: set[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Our name and the shape of each released tensor, of which there are no others."""
    found = {}
    for name, parameter in detector.named_parameters():
        way = next(way for way in names.sources(detector.config, name, tuple(parameter.shape)) if set(way.names) <= known)
        found |= dict.fromkeys(way.names, (name, way.shape))
    return found


@pytest.mark.parametrize(("name", "file"), [("released", "released_base"), ("vitdet", "vitdet_base")])
def test_names_and_shapes_at_full_size(fixtures_dir, name, file):
    with gzip.open(fixtures_dir / "detection" / "keys" / f"{file}.tsv.gz", "rt") as lines:
        recorded = {key: tuple(json.loads(f"[{shape.strip('(),')}]")) for key, shape in csv.reader(lines, delimiter="\t")}
    ours = by_released_name(full_size(name), set(recorded))
    assert {key: shape for key, (_, shape) in ours.items()} == recorded


@pytest.mark.parametrize(("name", "recording"), [("released", "released"), ("vitdet", "vitdet_base")])
def test_rates_and_decay_at_full_size(fixtures_dir, name, recording):
    about = json.loads((fixtures_dir / "detection" / "optim.json").read_text())
    groups = {key: (group["lr"], group["weight_decay"]) for group in about[recording] for key in group["parameters"]}
    detector = full_size(name)
    ours = by_released_name(detector, set(groups))
    assert ours.keys() == groups.keys()
    factors, spared = rate_factors(detector, 0.7), spared_by_decay(detector)
    for key, (rate, decay) in groups.items():
        own, _ = ours[key]
        assert about["base_lr"] * factors[own] == pytest.approx(rate, rel=1e-12), key
        assert (0.0 if own in spared else about["weight_decay"]) == decay, key
