"""Detectors: sizes of a Mask R-CNN on a V-MoE, and the switches of the release that affect it (specification detection.md)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from m2mkd.config.base import Config
from m2mkd.config.compat import Value
from m2mkd.config.models import VMoEConfig

BOX_BINS, MASK_BINS = 7, 14
"""Side of the grid to which the features of a region are pooled, for its box and for its mask."""


class Proposals(Config):
    """Numbers of boxes of an image that pass from the region proposal network to the heads."""

    before_nms: PositiveInt
    """Boxes of each level of the pyramid with the largest logits, among which NMS chooses."""
    after_nms: PositiveInt
    """Boxes that are kept, over all levels."""


class DetectorConfig(Config):
    """A Mask R-CNN with a simple feature pyramid on a V-MoE (detection.md 3); the defaults are the published sizes of a corrected run.

    The number of classes comes from the data set.
    """

    family: ClassVar[Literal["detector"]] = "detector"
    backbone: VMoEConfig
    """The V-MoE; class token, final norm and head are left out, and so are stitch layers."""
    image_size: PositiveInt = 1024
    """Side in pixels of the square that images are brought to, a multiple of the patch size. Its grid fixes the relative positions."""
    pretrain_size: PositiveInt = 224
    """Side in pixels of the images that the V-MoE was trained on, whose positions are resized."""
    padding: Literal["square", "largest"] = "square"
    """Size of a batch: the square, or, as in detectron2 for images of any size, the largest height and the largest width in it."""
    window_size: PositiveInt = 14
    """Side in patches of the windows in which blocks attend, unless they are global."""
    global_blocks: tuple[NonNegativeInt, ...] | None = None
    """Blocks that attend to the whole image, from 0; none: the last block of each stage."""
    relative_positions: bool = True
    """True if windowed attention, and global attention combined with it, has decomposed relative positions."""
    channels: PositiveInt = 256
    """Channels of the pyramid and of the convolutions in all heads."""
    anchor_sizes: tuple[tuple[PositiveFloat, ...], ...] = Field(((32,), (64,), (128,), (256,), (512,)), min_length=5, max_length=5)
    """Square roots of the anchors' areas in pixels, at each of the five levels of the pyramid."""
    anchor_ratios: tuple[PositiveFloat, ...] = Field((0.5, 1, 2), min_length=1)
    """Heights of the anchors over their widths."""
    rpn_convs: PositiveInt = 2
    """3 x 3 convolutions in the head of the region proposal network."""
    rpn_samples: PositiveInt = 256
    """Anchors of an image in the loss, at most half of them positive."""
    train_proposals: Proposals = Proposals(before_nms=2000, after_nms=1000)
    test_proposals: Proposals = Proposals(before_nms=1000, after_nms=1000)
    region_samples: PositiveInt = 512
    """Regions of an image in the loss, at most a quarter of them foreground."""
    canonical_size: PositiveFloat = 224
    """Square root of the area in pixels of a region that is pooled from the third level, whose stride is that of the patches."""
    box_convs: NonNegativeInt = 4
    """3 x 3 convolutions in the box head."""
    box_width: PositiveInt = 1024
    """Width of the linear layer after them."""
    mask_convs: PositiveInt = 4
    """3 x 3 convolutions in the mask head."""
    detections: PositiveInt = 100
    """Detections of an image, at most."""

    @model_validator(mode="after")
    def _sizes_fit(self):
        patch = self.backbone.patch_size
        for name in ("image_size", "pretrain_size"):
            if getattr(self, name) % patch:
                raise ValueError(f"{name} {getattr(self, name)} is not a multiple of patch_size {patch}; change either")
        if patch % 4:
            raise ValueError(f"patch_size {patch} is not a multiple of 4, which the pyramid's finest stride needs; change it")
        if self.backbone.width % 4:
            raise ValueError(f"backbone.width {self.backbone.width} is not a multiple of 4, which the pyramid's finest level needs")
        return self

    @model_validator(mode="after")
    def _backbone_fits(self):
        if self.backbone.stitch != "dropped":
            raise ValueError("backbone.stitch kept: the detector has no stitch layers between the stages; use stitch: dropped")
        depth = sum(self.backbone.depths)
        beyond = [block for block in self.global_blocks or () if block >= depth]
        if beyond:
            raise ValueError(f"global_blocks names block {beyond[0]}, but there are blocks 0 to {depth - 1}; name one of these")
        return self

    @model_validator(mode="after")
    def _as_many_anchors_at_each_level(self):
        if len({len(sizes) for sizes in self.anchor_sizes}) > 1:
            raise ValueError("anchor_sizes has levels with different numbers of sizes; the head is shared, so give each as many")
        return self

    @property
    def stride(self) -> int:
        """Number that the image size must be a multiple of."""
        return self.backbone.patch_size

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride in pixels of each level of the pyramid."""
        return tuple(self.backbone.patch_size * 2**level // 4 for level in range(5))

    @property
    def global_positions(self) -> tuple[int, ...]:
        """Positions in the network of the blocks that attend to the whole image while others attend in windows."""
        if self.global_blocks is not None:
            return self.global_blocks
        depths = self.backbone.depths
        return tuple(sum(depths[: stage + 1]) - 1 for stage in range(len(depths)))


class DetectorSwitches(Config):
    """Values of the compat switches that affect a detector (``config/compat.yaml``); the defaults are the corrected ones."""

    detection_init: Literal["none", "student"] = "student"
    """``none``: no weight is loaded, and positions are those of the input, without a row for the class token. ``student``: the start is a
    V-MoE's, with its positions, which are resized."""
    detection_input: Literal["corner", "whole"] = "whole"
    """``corner``: only the top left square of a larger image is seen, while its size and boxes stay those of the whole image. ``whole``: an
    image that does not fit the square is refused."""
    unreachable: Literal["positive", "none"] = "none"
    """Anchors for an instance that overlaps none of them: all of them, or none."""
    channel_order: Literal["bgr", "rgb"] = "rgb"
    """Order of the channels when RGB's mean is subtracted; images are given as RGB in both cases."""
    detection_attention: Literal["global", "windows"] = "windows"
    """``global``: every block attends to the whole image, without relative positions. ``windows``: as in ViTDet."""
    layer_decay: Literal["stage", "block"] = "block"
    """Depth by which the learning rate decays: a block's number in its stage, or in the network."""

    @classmethod
    def of(cls, compat: Mapping[str, Value]) -> "DetectorSwitches":
        """Values of the switches in ``compat``; the others are corrected.

        Raises
        ------
        InputError
            If a switch has no such value.
        """
        from m2mkd.config.load import checked

        switches: DetectorSwitches = checked(cls, {name: compat[name] for name in cls.model_fields if name in compat}, "compat")
        return switches
