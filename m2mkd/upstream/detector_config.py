"""Configurations of the released detector, and of ViTDet with experts in its blocks (specification detection.md 3)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.config.load import checked
from m2mkd.config.models import VMoEConfig
from m2mkd.errors import InputError
from m2mkd.upstream.description import Description, Shapes
from m2mkd.upstream.vit_config import ReleasedVMoE, completed
from m2mkd.upstream.vocabulary import SquareSide, Vocabulary

RELEASED = DetectorSwitches(
    detection_init="none",
    detection_input="corner",
    unreachable="positive",
    detection_attention="global",
    layer_decay="stage",
)
"""Defects that are part of the released network. Channels keep the given order: its loader reverses them, not the network."""
VITDET = DetectorSwitches(unreachable="positive")


class ReleasedDetector(Vocabulary):
    WITHOUT_EFFECT: ClassVar = frozenset({"input_format", "pixel_mean", "pixel_std", "vis_period"})
    kind: Literal["released", "vitdet"] = "released"
    num_classes: PositiveInt = 80
    square_pad: NonNegativeInt | None = None
    out_channels: PositiveInt = 256
    anchor_sizes: tuple[tuple[PositiveFloat, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    rpn_batch: PositiveInt = 256
    roi_batch: PositiveInt = 512
    pre_nms_topk: tuple[PositiveInt, PositiveInt] = (2000, 1000)
    post_nms_topk: tuple[PositiveInt, PositiveInt] = (1000, 1000)
    fc_dim: PositiveInt = 1024
    detections: PositiveInt = 100
    net: dict[str, Any] = {}

    def sizes(self) -> dict[str, Any]:
        """Fields of this package's configuration outside the backbone."""
        train, test = (
            {"before_nms": before, "after_nms": after} for before, after in zip(self.pre_nms_topk, self.post_nms_topk, strict=True)
        )
        return {
            "channels": self.out_channels,
            "anchor_sizes": self.anchor_sizes,
            "rpn_samples": self.rpn_batch,
            "train_proposals": train,
            "test_proposals": test,
            "region_samples": self.roi_batch,
            "box_width": self.fc_dim,
            "detections": self.detections,
        }


class ReleasedNet(ReleasedVMoE):
    """V-MoE of the released detector."""

    WITHOUT_EFFECT: ClassVar = ReleasedVMoE.WITHOUT_EFFECT | {"num_classes"}
    embed_dim: PositiveInt = 768
    num_heads: PositiveInt = 12
    pre_stitch_pos: tuple[()] = ()
    post_stitch_pos: tuple[()] = ()


class ViTDetNet(Vocabulary):
    """ViTDet's ViT; ``moe_pos`` names the blocks with experts, of which no publication has any."""

    WITHOUT_EFFECT: ClassVar = frozenset({"drop_path_rate", "out_feature", "norm_layer", "act_layer", "rel_pos_zero_init"})
    img_size: SquareSide = 1024
    patch_size: SquareSide = 16
    in_chans: Literal[3] = 3
    embed_dim: PositiveInt = 768
    depth: PositiveInt = 12
    num_heads: PositiveInt = 12
    mlp_ratio: PositiveFloat = 4.0
    qkv_bias: bool = True
    use_abs_pos: Literal[True] = True
    use_rel_pos: bool = True
    window_size: NonNegativeInt = 14
    window_block_indexes: tuple[NonNegativeInt, ...] = (0, 1, 3, 4, 6, 7, 9, 10)
    residual_block_indexes: tuple[()] = ()
    pretrain_img_size: SquareSide = 224
    pretrain_use_cls_token: Literal[True] = True
    moe_pos: tuple[NonNegativeInt, ...] = ()
    num_expert: PositiveInt = 8
    top_k: PositiveInt = 2

    def ours(self, where: str) -> dict[str, Any]:
        """Fields of the detector's configuration in this package."""
        backbone = {
            "patch_size": self.patch_size,
            "width": self.embed_dim,
            "heads": self.num_heads,
            "depths": (self.depth,),
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
            "experts": self.num_expert,
            "top_k": self.top_k,
            "moe_blocks": tuple(sorted(set(self.moe_pos))),
        }
        windowed = set(self.window_block_indexes) if self.window_size else set()
        return {
            "backbone": checked(VMoEConfig, backbone, where),
            "image_size": self.img_size,
            "pretrain_size": self.pretrain_img_size,
            "window_size": self.window_size or 1,
            "global_blocks": tuple(sorted(set(range(self.depth)) - windowed)),
            "relative_positions": self.use_rel_pos,
        }


def describe_detector(config: Mapping[str, Any], shapes: Shapes, where: str) -> Description:
    """Describe a detector.

    Parameters
    ----------
    config
        ``kind``, ``released`` or ``vitdet``; ``net``, constructor arguments of its backbone; sizes of its other parts.
    shapes
        Shapes of the released tensors; they determine the stages if ``net`` does not.
    where
        Name of the configuration in errors.

    Raises
    ------
    InputError
        If a key is unknown or wrong, or the padding differs from the release.
    """
    released: ReleasedDetector = checked(ReleasedDetector, dict(config), where)
    content, inside = dict(config), f"{where}: net"
    if released.kind == "vitdet":
        vit: ViTDetNet = checked(ViTDetNet, released.net, inside)
        side, fields, switches = vit.img_size, vit.ours(inside), VITDET
    else:
        prefix = "backbone.net."
        own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        content["net"] = completed(released.net, "vmoe", own, inside)
        net: ReleasedNet = checked(ReleasedNet, content["net"], inside)
        side, switches = net.img_size, RELEASED
        fields = {"backbone": net.ours(inside, stitched=False), "image_size": side, "pretrain_size": side}
    padding = side if released.square_pad is None else released.square_pad
    if padding != side and not (padding == 0 and released.kind == "vitdet"):
        raise InputError(f"{where}: square_pad {padding} is not the img_size {side} of net; give the same for both")
    fields["padding"] = "square" if padding else "largest"
    return Description(
        kind="vmoe_detector",
        architecture=checked(DetectorConfig, released.sizes() | fields, where),
        image_size=side,
        num_classes=released.num_classes,
        config=content,
        switches=switches,
    )
