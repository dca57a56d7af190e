"""Names, shapes and numbers of parameters at full size, on the meta device (specification vmoe.md 3)."""

import json
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.network import build, convert
from tests.parity.released import key_list

LARGE = {"model_name": "vit_large_patch16_224"}
HUGE = {"model_name": "vit_huge_patch14_224"}
BASE_MODULE = {"model_name": "vmoe_base", "divided_depths": [3], "moe_pos": [0, 1, 2], "stitch_dim": 1024}
FULL_SIZE = {
    "deit_large": ("vit", LARGE | {"divided_depths": [6, 6, 6, 6]}),
    "deit_huge": ("vit", HUGE | {"divided_depths": [4, *[3] * 8, 4]}),
    "deit_base": ("vit", {"model_name": "vit_base", "divided_depths": [3, 3, 3, 3]}),
    "meta_large": ("vit", LARGE | {"divided_depths": [1] * 4}),
    "meta_huge": ("vit", HUGE | {"divided_depths": [1] * 10}),
    "mt_large_0": ("vit", LARGE | {"divided_depths": [6, 1, 1, 1]}),
    "vmoe_base": ("vmoe", {"model_name": "vmoe_base", "divided_depths": [3, 3, 3, 3]}),
    "vmoe_base_stitch": (
        "vmoe",
        {
            "model_name": "vmoe_base",
            "divided_depths": [3, 3, 3, 3],
            "pre_stitch_pos": [3, 6, 9],
            "post_stitch_pos": [2, 5, 8],
            "stitch_dim": 1024,
        },
    ),
    "vmoe_base_every2": ("vmoe", {"model_name": "vmoe_base", "divided_depths": [3, 3, 3, 3], "moe_pos": [1, 3, 5, 7, 9, 11]}),
    "vmoe_small_384x12": ("vmoe", {"embed_dim": 384, "num_heads": 6, "divided_depths": [3, 3, 3, 3]}),
    "vmoe_small_512x8": ("vmoe", {"embed_dim": 512, "num_heads": 8, "divided_depths": [2, 2, 2, 2]}),
    "vmoe_student_0": ("vmoe_module", BASE_MODULE | {"idx": 0, "post_stitch_pos": [2]}),
    "vmoe_student_1": ("vmoe_module", BASE_MODULE | {"idx": 1, "pre_stitch_pos": [0], "post_stitch_pos": [2]}),
    "vmoe_student_2": ("vmoe_module", BASE_MODULE | {"idx": 2, "pre_stitch_pos": [0], "post_stitch_pos": [2]}),
    "vmoe_student_m1": ("vmoe_module", BASE_MODULE | {"idx": -1, "pre_stitch_pos": [0]}),
}
LISTED = sorted(FULL_SIZE.keys() - {"mt_large_0", "vmoe_base_every2", "vmoe_small_384x12", "vmoe_small_512x8", "vmoe_student_2"})


def full_size(name: str) -> nn.Module:
    kind, config = FULL_SIZE[name]
    with torch.device("meta"):
        return build(describe_checkpoint(kind, config, {}))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", FULL_SIZE)
def test_parameter_counts(fixtures_dir, name):
    module = full_size(name)
    counts = json.loads((fixtures_dir / "vmoe" / "keys" / "counts.json").read_text())[name.replace("student_2", "student_1")]
    assert parameters(module) == counts["params"]
    stages = module.stages if hasattr(module, "stages") else [module]
    assert [parameters(stage) for stage in stages] == counts["stages"]


@pytest.mark.parametrize("name", LISTED)
def test_keys_at_full_size(fixtures_dir, name):
    """The released names and shapes give exactly ours, also with fused experts, and also where the configuration leaves the stages open."""
    kind, config = FULL_SIZE[name]
    released = key_list(fixtures_dir, name)
    ours = shapes(full_size(name).state_dict())
    assert shapes(convert(describe_checkpoint(kind, config, {}), released)) == ours
    if kind != "vit":
        assert shapes(convert(describe_checkpoint(kind, config, {}), fused(released, 8))) == ours
    told = {"divided_depths", "moe_pos", "pre_stitch_pos", "post_stitch_pos", "stitch_dim"}
    open_config = {key: value for key, value in config.items() if key not in told}
    assert shapes(convert(describe_checkpoint(kind, open_config, shapes(released)), released)) == ours


def fused(released: Mapping[str, Tensor], experts: int) -> dict[str, Tensor]:
    """The same state with the experts of a layer in one tensor."""
    joined = {}
    for key, tensor in released.items():
        head, experts_part, tail = key.partition(".experts.")
        if not experts_part:
            joined[key] = tensor
        elif tail.startswith("0."):
            joined[f"{head}.experts.{tail[2:]}"] = tensor.expand(experts, *tensor.shape[1:])
    return joined


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
