"""Configurations of the recorded ViT and V-MoE, and how close ours have to come."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.description import Description
from m2mkd.upstream.network import convert

COMMON = {"img_size": 32, "patch_size": 8, "num_classes": 10, "mlp_ratio": 4, "qkv_bias": True, "ln_eps": 1e-6}
VIT = COMMON | {"embed_dim": 32, "num_heads": 4}
VMOE = COMMON | {"embed_dim": 24, "num_heads": 3, "num_expert": 8}
META, TEACHER = VIT | {"divided_depths": [1, 1, 1, 1]}, VIT | {"divided_depths": [2, 2, 2, 2]}
FULL = VMOE | {"divided_depths": [2, 2, 2, 2], "moe_pos": list(range(8))}
STITCHED = FULL | {"pre_stitch_pos": [2, 4, 6], "post_stitch_pos": [1, 3, 5], "stitch_dim": 32}
MODULE = VMOE | {"divided_depths": [2], "moe_pos": [0, 1], "stitch_dim": 32}
MODULES = [
    MODULE | {"idx": 0, "post_stitch_pos": [1]},
    MODULE | {"idx": 1, "pre_stitch_pos": [0], "post_stitch_pos": [1]},
    MODULE | {"idx": 2, "pre_stitch_pos": [0], "post_stitch_pos": [1]},
    MODULE | {"idx": -1, "pre_stitch_pos": [0]},
]
NAMES = ["0", "1", "2", "m1"]
PRECISIONS = [pytest.param(torch.float64, ".f64", 1e-12, id="fp64"), pytest.param(torch.float32, "", 5e-6, id="fp32")]


def close(ours: Tensor, theirs: np.ndarray | Tensor, tolerance: float) -> None:
    """Assert that the largest difference is small next to the largest value."""
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    difference = ((ours.detach() - theirs).abs().max() / theirs.abs().max()).item()
    assert difference <= tolerance


def module_description(index: int) -> Description:
    return describe_checkpoint("vmoe_module", MODULES[index], {})


def student_state(states: Mapping[str, Mapping[str, Tensor]], index: int) -> dict[str, Tensor]:
    return convert(module_description(index), states[f"vmoe_student_{NAMES[index]}"])
