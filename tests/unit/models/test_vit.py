"""The staged ViT and how its stages are built."""

import pytest
import torch
from timm.layers import DropPath
from timm.models import VisionTransformer
from torch import nn

from m2mkd.config.models import ViTConfig
from m2mkd.config.published import published
from m2mkd.errors import InputError
from m2mkd.models.vit import StagedViT, build_stage, incubation_config

CONFIG = ViTConfig(patch_size=4, width=16, heads=2, depths=(1, 2, 1))
SIZES = {"image_size": 8, "num_classes": 5}


def drop_paths(module: nn.Module) -> list[float]:
    """Rate of each block's two branches in order, 0 where there is no drop path."""
    rates = []
    for block in (block for stage in module.modules() if hasattr(stage, "blocks") for block in stage.blocks):
        branch_rates = [branch.drop_prob if isinstance(branch, DropPath) else 0.0 for branch in (block.drop_path1, block.drop_path2)]
        assert branch_rates[0] == branch_rates[1]
        rates.append(branch_rates[0])
    return rates


def test_stages_in_a_row_are_the_network():
    torch.manual_seed(0)
    network = StagedViT(CONFIG, **SIZES).eval()
    x = images = torch.randn(3, 3, 8, 8)
    for stage, shape in zip(network.stages, [(3, 5, 16), (3, 5, 16), (3, 5)], strict=True):
        x = stage(x)
        assert x.shape == shape
    assert torch.equal(network(images), x)


def test_nothing_is_registered_twice():
    network = StagedViT(CONFIG, **SIZES)
    assert len(network.state_dict()) == len(list(network.parameters()))
    assert {name.split(".")[0] for name in network.state_dict()} == {"stages"}


def test_stage_local_names():
    network = StagedViT(CONFIG, **SIZES)
    roots = [{name.split(".")[0] for name in stage.state_dict()} for stage in network.stages]
    assert roots == [{"pos_embed", "cls_token", "patch_embed", "blocks"}, {"blocks"}, {"blocks", "norm", "head"}]


def test_norm_acts_before_the_class_token_is_taken():
    torch.manual_seed(0)
    stage = build_stage(CONFIG, 2, **SIZES).eval()
    tokens = torch.randn(2, 5, 16)
    expected = stage.head(stage.norm(stage.blocks(tokens))[:, 0])
    assert torch.allclose(stage(tokens), expected, atol=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_a_stage_built_alone_equals_the_stage_of_the_network(index):
    network = StagedViT(CONFIG, drop_path=0.3, **SIZES)
    stage = build_stage(CONFIG, index, drop_path=0.3, **SIZES)
    stage.load_state_dict(network.stages[index].state_dict())
    assert drop_paths(stage) == drop_paths(network.stages[index])
    x = torch.randn(2, 3, 8, 8) if index == 0 else torch.randn(2, 5, 16)
    assert torch.equal(stage.eval()(x), network.eval().stages[index](x))


@pytest.mark.parametrize("index", [-1, 3])
def test_stages_are_not_counted_from_the_end(index):
    with pytest.raises(InputError, match="modules 0 to 2"):
        build_stage(CONFIG, index, **SIZES)


def test_image_size_must_hold_whole_patches():
    with pytest.raises(InputError, match="patch_size 4"):
        build_stage(CONFIG, 0, image_size=10, num_classes=5)


def test_drop_path_is_linear_over_the_network_as_built():
    config = ViTConfig(patch_size=4, width=16, heads=2, depths=(6, 1, 1, 1))
    assert drop_paths(StagedViT(config, drop_path=0.1, **SIZES)) == pytest.approx([0.0125 * i for i in range(9)])
    assert drop_paths(StagedViT(config, **SIZES)) == [0.0] * 9


def test_initial_weights():
    torch.manual_seed(0)
    config = ViTConfig(patch_size=4, width=128, heads=2, depths=(1, 1))
    state = StagedViT(config, image_size=32, num_classes=100).state_dict()
    for name, tensor in state.items():
        if "norm" in name:
            assert tensor.unique().tolist() == ([1.0] if name.endswith("weight") else [0.0])
        elif "patch_embed" in name:
            bound = (3 * 4 * 4) ** -0.5  # PyTorch's default
            assert bound * 0.9 < tensor.abs().max() <= bound
        elif name.endswith("bias"):
            assert tensor.count_nonzero() == 0
        else:
            assert tensor.std().item() == pytest.approx(0.02, rel=0.25 if tensor.numel() < 1000 else 0.05), name


def test_qkv_bias_and_norm_eps_follow_the_config():
    config = CONFIG.model_copy(update={"qkv_bias": False, "norm_eps": 1e-3})
    network = StagedViT(config, **SIZES)
    assert not [name for name in network.state_dict() if name.endswith("qkv.bias")]
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 9
    assert {norm.eps for norm in norms} == {1e-3}


def test_no_weight_decay_names_parameters_that_exist():
    network = StagedViT(CONFIG, **SIZES)
    assert network.no_weight_decay() == {"stages.0.cls_token", "stages.0.pos_embed"} <= dict(network.named_parameters()).keys()
    assert [stage.no_weight_decay() for stage in network.stages] == [{"cls_token", "pos_embed"}, set(), set()]


def test_incubation_has_the_teachers_depth_in_one_stage():
    teacher = CONFIG.model_copy(update={"depths": (4, 5, 6)})
    assert incubation_config(CONFIG, teacher, 1).depths == (1, 5, 1)
    assert incubation_config(CONFIG, teacher, 2).depths == (1, 2, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 32}, "differ in width"), ({"depths": (1, 1)}, "3 modules and teacher 2"), ({"qkv_bias": False}, "differ in qkv_bias")],
)
def test_incubation_refuses_networks_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        incubation_config(CONFIG, CONFIG.model_copy(update=change), 0)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("deit_large", [76_567_552, 75_577_344, 75_577_344, 76_604_392]),
        ("meta_large", [13_586_432, 12_596_224, 12_596_224, 13_623_272]),
        ("deit_huge", [79_778_560, *[59_020_800] * 8, 79_977_960]),
    ],
)
def test_published_size_of_each_stage(name, stages):
    """Specification vmoe.md 3.2; on the meta device, where weights take no memory."""
    with torch.device("meta"):
        network = StagedViT(published(name), image_size=224, num_classes=1000)
    assert [sum(parameter.numel() for parameter in stage.parameters()) for stage in network.stages] == stages


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_stages_in_a_row_are_timms_vision_transformer(qkv_bias):
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"qkv_bias": qkv_bias, "norm_eps": 1e-5})
    network = StagedViT(config, **SIZES).double().eval()
    flat = VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=4,
        num_heads=2,
        num_classes=5,
        qkv_bias=qkv_bias,
        norm_layer=lambda width, **_: nn.LayerNorm(width, eps=1e-5),
    )
    weights, position = {}, 0
    for stage in network.stages:
        for name, tensor in stage.state_dict().items():
            block = name.split(".")
            if block[0] == "blocks":
                name = ".".join(["blocks", str(position + int(block[1])), *block[2:]])  # noqa: PLW2901
            weights[name] = tensor
        position += len(stage.blocks)
    flat.load_state_dict(weights)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(images), flat.double().eval()(images), rtol=1e-12, atol=1e-12)


def test_attention_is_fused():
    network = StagedViT(CONFIG, **SIZES)
    assert all(block.attn.fused_attn for stage in network.stages for block in stage.blocks)
