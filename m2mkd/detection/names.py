"""Tensor names of the released detector (specification detection.md 4), and of ViTDet with experts in its blocks."""

import re
from collections.abc import Callable

from m2mkd.config.detection import DetectorConfig
from m2mkd.models.names import vit
from m2mkd.models.names.sources import Source

_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"pyramid\.levels\.(\d)\.(\d)\.0\.(weight)", lambda m: f"backbone.simfp_{int(m[1]) + 2}.{m[2]}.{m[3]}"),
    (r"pyramid\.levels\.(\d)\.(\d)\.1\.(\w+)", lambda m: f"backbone.simfp_{int(m[1]) + 2}.{m[2]}.norm.{m[3]}"),
    (r"pyramid\.levels\.(\d)\.(\d)\.(\w+)", lambda m: f"backbone.simfp_{int(m[1]) + 2}.{m[2]}.{m[3]}"),
    (r"rpn\.head\.conv\.(\d+)\.0\.(\w+)", r"proposal_generator.rpn_head.conv.conv\1.\2"),
    (r"rpn\.head\.cls_logits\.(\w+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn\.head\.bbox_pred\.(\w+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"heads\.box_head\.(\d+)\.0\.(weight)", lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}.{m[2]}"),
    (r"heads\.box_head\.(\d+)\.1\.(\w+)", lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}.norm.{m[2]}"),
    (r"heads\.box_head\.\d+\.(weight|bias)", r"roi_heads.box_head.fc1.\1"),
    (r"heads\.class_logits\.(\w+)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"heads\.box_deltas\.(\w+)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (r"heads\.mask_head\.(\d+)\.0\.(weight)", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.{m[2]}"),
    (r"heads\.mask_head\.(\d+)\.1\.(\w+)", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.norm.{m[2]}"),
    (r"heads\.mask_logits\.conv5_mask\.(\w+)", r"roi_heads.mask_head.deconv.\1"),
    (r"heads\.mask_logits\.mask_fcn_logits\.(\w+)", r"roi_heads.mask_head.predictor.\1"),
)
_BACKBONE = "backbone."


def sources(config: DetectorConfig, name: str, shape: tuple[int, ...]) -> tuple[Source, ...]:
    """Names in a released file of tensor ``name`` of a `~m2mkd.detection.detector.Detector`.

    Parameters
    ----------
    config
        Configuration of the detector.
    name, shape
        Name and shape of the tensor here.
    """
    if not name.startswith(_BACKBONE):
        pattern, replacement = next(rule for rule in _RULES if re.fullmatch(rule[0], name))
        return (Source((re.sub(pattern, replacement, name),), shape),)
    vit_config = config.backbone
    known = vit.vit_sources(name.removeprefix(_BACKBONE), shape, vit_config.depths, vit_config.moe_positions)
    released = tuple(Source(tuple(f"backbone.net.{piece}" for piece in way.names), way.shape) for way in known)
    # ViTDet's blocks call their token-wise branch mlp, whatever its type.
    in_vitdet = (Source(tuple(piece.replace(".moe.", ".mlp.") for piece in way.names), way.shape) for way in released)
    return tuple(dict.fromkeys((*released, *in_vitdet)))
