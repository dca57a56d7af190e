"""A V-MoE as the start of a detector: exactly which tensors it gives and which keep their initial values."""

import re

import pytest
import torch

from m2mkd.config.models import VMoEConfig
from m2mkd.detection.start import start_from
from m2mkd.errors import InputError
from m2mkd.models.vmoe import VMoE
from m2mkd.seeds import forked_rng
from tests.unit.detection.small import CONFIG, VIT, detector

STUDENT = {"image_size": 32, "num_classes": 7}


def student_state(config=VIT, **sizes):
    with forked_rng("student"):
        return VMoE(config, **(STUDENT | sizes)).double().state_dict()


def test_the_backbone_is_the_students_and_everything_else_is_left():
    network, state = detector(), student_state()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    left = start_from(network, state)
    own = network.state_dict()
    backbone = {name for name in own if name.startswith("backbone.")}
    tables = {f"backbone.stages.{stage}.blocks.0.attn.rel_pos_{axis}" for stage in range(2) for axis in "hw"}
    assert left == (own.keys() - backbone) | tables
    for name, tensor in own.items():
        expected = before[name] if name in left else state[name.removeprefix("backbone.")]
        assert torch.equal(tensor, expected), name
    assert not any(torch.equal(before[name], own[name]) for name in backbone - left if "weight" in name and "norm" not in name)


def test_what_the_detector_has_no_use_for():
    network, state = detector(), student_state()
    taken = {name.removeprefix("backbone.") for name in network.state_dict().keys() - start_from(network, state)}
    assert state.keys() - taken == {
        "stages.0.cls_token",
        "stages.1.norm.weight",
        "stages.1.norm.bias",
        "stages.1.head.weight",
        "stages.1.head.bias",
    }


def test_a_student_without_classifier_will_do():
    state = {name: tensor for name, tensor in student_state().items() if ".head." not in name}
    assert start_from(detector(), state)


def test_the_features_are_the_students_where_nothing_is_resized():
    # Without windows, and relative positions being zero at the start, the backbone is the V-MoE but for its class token.
    network = detector(CONFIG.model_copy(update={"pretrain_size": 64}), detection_attention="global")
    state = student_state(image_size=64)
    start_from(network, state)
    with forked_rng("student"):
        vmoe = VMoE(VIT, image_size=64, num_classes=7).double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    x = vmoe.stages[0].embed(images)[:, 1:]
    for stage in vmoe.stages:
        x = stage.blocks(x)
    torch.testing.assert_close(network.backbone(images).flatten(2).mT, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stages.1.blocks.0.mlp.fc1.weight"), "V-MoE lacks stages.1.blocks.0.mlp.fc1.weight; give the state dict"),
        (lambda s: s.pop("stages.0.cls_token"), "V-MoE lacks stages.0.cls_token; give the state dict of a whole V-MoE"),
        (lambda s: s.update({"stages.1.blocks.1.norm1.bias": s["stages.1.norm.bias"]}), "V-MoE has stages.1.blocks.1.norm1.bias, not in"),
        (
            lambda s: s.update({"stages.0.pos_embed": torch.zeros(1, 65, 16)}),
            r"pos_embed has shape \(1, 65, 16\), expected \(1, 17, 16\); correct the detector's pretrain_size",
        ),
        (
            lambda s: s.update({"stages.0.patch_embed.proj.bias": torch.zeros(5)}),
            r"proj.bias has shape \(5,\), expected \(16,\); correct the detector's backbone",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(change, message):
    network, state = detector(), student_state()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    change(state)
    with pytest.raises(InputError, match=message):
        start_from(network, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_student_of_another_architecture_is_refused():
    for config in (
        VMoEConfig(patch_size=8, width=16, heads=2, depths=(2,), experts=4),
        VMoEConfig(patch_size=8, width=16, heads=2, depths=(1, 1), experts=2),
        VMoEConfig(patch_size=8, width=16, heads=2, depths=(1, 1), experts=4, moe_blocks="every_2"),
        VMoEConfig(patch_size=8, width=16, heads=2, depths=(1, 1), experts=4, router="vmoe"),
        VMoEConfig(patch_size=8, width=16, heads=2, depths=(1, 1), experts=4, qkv_bias=False),
    ):
        with pytest.raises(InputError, match="V-MoE"):
            start_from(detector(), student_state(config))


def test_stitch_layers_are_refused():
    config = VIT.model_copy(update={"stitch": "kept"})
    with pytest.raises(InputError, match=re.escape("V-MoE has stages.0.post_stitch.ln.weight and 7 more, not in the detector's backbone")):
        start_from(detector(), student_state(config, stitch_width=12))
