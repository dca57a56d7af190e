"""Constructor arguments of the released ViT, V-MoE and V-MoE modules (specification vmoe.md 1)."""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from m2mkd.config.load import checked
from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.errors import InputError
from m2mkd.upstream.description import Description, Shapes
from m2mkd.upstream.kinds import ReleasedKind
from m2mkd.upstream.vocabulary import Depths, Layers, Ratio, SquareSide, Vocabulary, Width

_BASE = {"embed_dim": 768, "num_heads": 12, "patch_size": 16}
_LARGE = {"embed_dim": 1024, "num_heads": 16, "patch_size": 16}
_HUGE = {"embed_dim": 1280, "num_heads": 16, "patch_size": 14}
NAMED: dict[str, dict[str, Any]] = {
    "vit_base": _BASE,
    "vit_large": _LARGE,
    "vit_huge": _HUGE | {"qkv_bias": False, "ln_eps": 1e-5},
    "vmoe_base": _BASE,
    "vmoe_large": _LARGE,
    "vmoe_huge": _HUGE,
}
"""Arguments of the released model functions; a name may have a suffix, as in ``vit_large_patch16_224``."""
MODEL_NAME = ("model_name", "model")
SYNONYMS = {
    "classes": "num_classes",
    "dim": "embed_dim",
    "heads": "num_heads",
    "norm_eps": "ln_eps",
    "experts": "num_expert",
    "topk": "top_k",
    "moe_top_k": "top_k",
}
"""Synonyms of arguments, and the name used here."""
_STAGE_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\..+")
_FLAT_BLOCK = re.compile(r"blocks\.(\d+)\..+")


class ReleasedViT(Vocabulary):
    WITHOUT_EFFECT: ClassVar = frozenset(
        {
            "depth",
            "drop_rate",
            "attn_drop_rate",
            "drop_path_rate",
            "drop_path",
            "pretrained",
            "weight_init",
            "is_student",
        }
    )
    img_size: SquareSide = 224
    patch_size: SquareSide = 16
    in_chans: Literal[3] = 3
    num_classes: Width = 1000
    embed_dim: Width
    num_heads: Width
    mlp_ratio: Ratio = 4.0
    qkv_bias: bool = True
    ln_eps: PositiveFloat = 1e-6
    divided_depths: Depths = Field(min_length=1)
    stage: NonNegativeInt | None = None

    def widths(self) -> dict[str, Any]:
        return {
            "patch_size": self.patch_size,
            "width": self.embed_dim,
            "heads": self.num_heads,
            "depths": self.divided_depths,
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
            "norm_eps": self.ln_eps,
        }


class ReleasedVMoE(ReleasedViT):
    num_expert: Layers = 8
    top_k: Layers = 2
    moe_pos: tuple[NonNegativeInt, ...] | None = None
    pre_stitch_pos: tuple[NonNegativeInt, ...] = ()
    post_stitch_pos: tuple[NonNegativeInt, ...] = ()
    stitch_dim: Width | None = None
    stitch_ln_eps: Literal[1e-5] = 1e-5  # type: ignore[valid-type]
    stage: None = None

    def ours(self, where: str, *, stitched: bool) -> VMoEConfig:
        depth = sum(self.divided_depths)
        experts = self.moe_pos if self.moe_pos is not None else tuple(range(depth))
        if outside := sorted(set(experts) - set(range(depth))):
            raise InputError(f"{where}: moe_pos has {outside[0]}, but divided_depths has blocks 0 to {depth - 1}; correct one of them")
        fields = {
            "experts": self.num_expert,
            "top_k": self.top_k,
            "moe_blocks": _pattern(tuple(sorted(set(experts))), depth),
            "stitch": "kept" if stitched else "dropped",
        }
        return checked(VMoEConfig, self.widths() | fields, where)


class ReleasedVMoEModule(ReleasedVMoE):
    idx: int = Field(ge=-1)
    divided_depths: tuple[Layers] = Field()


def describe_transformer(kind: ReleasedKind, config: Mapping[str, Any], shapes: Shapes, where: str) -> Description:
    """Describe a ViT, one of its stages, a V-MoE, or one of its modules."""
    content = completed(config, kind, shapes, where)
    if kind == "vit":
        return _describe_vit(content, where)
    return _describe_vmoe(content, where) if kind == "vmoe" else _describe_module(content, where)


def _describe_vit(content: dict[str, Any], where: str) -> Description:
    released: ReleasedViT = checked(ReleasedViT, content, where)
    stages, stage = len(released.divided_depths), released.stage
    if stage is not None and stage >= stages:
        raise InputError(f"{where}: stage {stage} does not exist: divided_depths gives stages 0 to {stages - 1}")
    return Description(
        kind="vit",
        architecture=checked(ViTConfig, released.widths(), where),
        image_size=released.img_size,
        num_classes=released.num_classes,
        config=content,
        stage=stage,
        first=not stage,
        last=stage is None or stage == stages - 1,
    )


def _describe_vmoe(content: dict[str, Any], where: str) -> Description:
    released: ReleasedVMoE = checked(ReleasedVMoE, content, where)
    ends = tuple(accumulate(released.divided_depths))[:-1]
    stitched = _stitched(released, ends, tuple(end - 1 for end in ends), where)
    return Description(
        kind="vmoe",
        architecture=released.ours(where, stitched=stitched),
        image_size=released.img_size,
        num_classes=released.num_classes,
        config=content,
        stitch_width=released.stitch_dim if stitched else None,
    )


def _describe_module(content: dict[str, Any], where: str) -> Description:
    released: ReleasedVMoEModule = checked(ReleasedVMoEModule, content, where)
    # The last module is -1 in the released m2mKD phase; 3 would be a module without a head (specification vmoe.md 7, finding 16).
    first, last = released.idx == 0, released.idx == -1
    pre, post = () if first else (0,), () if last else (released.divided_depths[0] - 1,)
    stitched = _stitched(released, pre, post, where)
    return Description(
        kind="vmoe_module",
        architecture=released.ours(where, stitched=stitched),
        image_size=released.img_size,
        num_classes=released.num_classes,
        config=content,
        stitch_width=released.stitch_dim if stitched else None,
        first=first,
        last=last,
    )


def completed(config: Mapping[str, Any], kind: ReleasedKind, shapes: Shapes, where: str) -> dict[str, Any]:
    """Arguments, completed by those of the named model and by what the tensors imply."""
    content = _in_one_name({key: value for key, value in config.items() if key not in MODEL_NAME and value is not None}, where)
    if name := next((config[key] for key in MODEL_NAME if config.get(key) is not None), None):
        family = next((known for known in NAMED if re.fullmatch(rf"{known}(_.*)?", str(name))), None)
        if family is None:
            raise InputError(f"{where}: model '{name}' is unknown; use one of {', '.join(NAMED)}, or give embed_dim, num_heads, patch_size")
        content = NAMED[family] | content
    if "divided_depths" not in content and (depths := _stage_depths(shapes)):
        content["divided_depths"] = depths
    if kind != "vit":
        _complete_stitches(content, kind, shapes)
    return content


def _in_one_name(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments without synonyms."""
    content: dict[str, Any] = {}
    for key, value in config.items():
        name = SYNONYMS.get(key, key)
        if content.setdefault(name, value) != value:
            raise InputError(f"{where}: {key} is {value!r}, but its synonym is {content[name]!r}; give only one")
    return content


def _stage_depths(shapes: Shapes) -> list[int]:
    """Blocks in each stage, by the names of the tensors; a single stage if the names do not tell."""
    stages: dict[int, set[int]] = {}
    for name in shapes:
        if match := _STAGE_BLOCK.fullmatch(name):
            stages.setdefault(int(match[1]), set()).add(int(match[2]))
    if not stages and (flat := {int(match[1]) for name in shapes if (match := _FLAT_BLOCK.fullmatch(name))}):
        stages = {0: flat}
    return [len(stages[index]) for index in sorted(stages)]


def _complete_stitches(content: dict[str, Any], kind: ReleasedKind, shapes: Shapes) -> None:
    """Add the positions and the width of stitch layers that the tensors have and the arguments omit."""
    if "stitch_dim" not in content:
        widths = [shape[0] for name, shape in shapes.items() if re.search(r"(post_stitch\.fc|pre_stitch\.ln)\.bias$", name) and shape]
        content |= {"stitch_dim": widths[0]} if widths else {}
    depths = content.get("divided_depths")
    if not isinstance(depths, list | tuple) or not all(isinstance(depth, int) for depth in depths):
        return
    if "pre_stitch_pos" in content or "post_stitch_pos" in content:
        return
    if any("_stitch." in name for name in shapes):
        ends = list(accumulate(depths))[:-1]
        pre, post = ends, [end - 1 for end in ends]
        if kind == "vmoe_module":
            index = content.get("idx")
            pre, post = [] if index == 0 else [0], [] if index == -1 else [sum(depths) - 1]
        content |= {"pre_stitch_pos": pre, "post_stitch_pos": post}


def _stitched(released: ReleasedVMoE, pre: tuple[int, ...], post: tuple[int, ...], where: str) -> bool:
    """True if there are stitch layers; they must then be at every boundary of the stages."""
    given = tuple(sorted(released.pre_stitch_pos)), tuple(sorted(released.post_stitch_pos))
    if given == ((), ()):
        return False
    if given != (pre, post):
        raise InputError(
            f"{where}: pre_stitch_pos {list(given[0])} and post_stitch_pos {list(given[1])} are not the boundaries of the modules, "
            f"{list(pre)} and {list(post)}; give these, or neither"
        )
    if released.stitch_dim is None:
        raise InputError(f"{where}: stitch_dim is missing; add the width of the stitch layers")
    return True


def _pattern(experts: tuple[int, ...], depth: int) -> str | tuple[int, ...]:
    """Pattern name of the blocks with experts, if there is one; else the blocks."""
    names = {tuple(range(depth)): "all", tuple(range(1, depth, 2)): "every_2"}
    return names.get(experts, experts)
