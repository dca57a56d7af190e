"""The models as users of timm meet them."""

import subprocess
import sys

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from m2mkd.config import load
from m2mkd.config.published import PUBLISHED, published
from m2mkd.errors import InputError
from m2mkd.models import registry
from m2mkd.models.timm_nac import TimmNAC
from m2mkd.models.vit import StagedViT

VIT = {"width": 16, "heads": 2, "depths": [1, 2, 1]}
NAC = {
    "state_dim": 16,
    "code_dim": 8,
    "signature_dim": 4,
    "heads": 2,
    "head_dim": 8,
    "latents": {"input": 4, "mediator": 8, "output": 4},
    "iterations": 2,
    "tokenizer": {"depths": [1, 1]},
    "graph": {"groups": 2, "regulariser_groups": 2, "fit_steps": 5},
}
TRANSFORMERS = {
    "staged_deit_large_patch16_224": VIT,
    "vmoe_base_patch16_224": VIT | {"experts": 3},
    "vmoe_small_patch16_224": VIT | {"experts": 3, "stitch": "kept", "stitch_width": 24},
}
COUNTS = {
    "vmoe_base_patch16_224": 483_325_768,
    "vmoe_small_patch16_224": 121_339_336,
    "staged_deit_base_patch16_224": 86_567_656,
    "staged_deit_large_patch16_224": 304_326_632,
    "staged_deit_huge_patch14_224": 631_922_920,
    "staged_meta_base_patch16_224": 29_864_680,
    "staged_meta_large_patch16_224": 52_402_152,
    "staged_meta_huge_patch14_224": 199_103_720,
    "nac_tiny_imagenet_64": 26_703_342,
    "nac_imagenet_224": 37_589_294,
}


def small(name: str, **arguments) -> nn.Module:
    """A model of few and narrow layers, in evaluation mode."""
    torch.manual_seed(0)
    sizes = NAC if name.startswith("nac") else TRANSFORMERS[name]
    return timm.create_model(name, **{"num_classes": 5, "img_size": 32} | sizes | arguments).eval()


@pytest.fixture(params=TRANSFORMERS)
def name(request) -> str:
    return request.param


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_names_are_listed():
    assert set(registry.REGISTERED) <= set(timm.list_models())
    assert timm.list_models("vmoe*") == ["vmoe_base_patch16_224", "vmoe_small_patch16_224"]
    assert not timm.list_models("vmoe*", pretrained=True)


@pytest.mark.parametrize("name", COUNTS)
def test_published_size(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


def test_every_registered_name_has_its_size_checked():
    assert COUNTS.keys() == registry.REGISTERED.keys()


def test_sizes_have_one_source():
    assert PUBLISHED.samefile(load.CONFIG / "models.yaml")
    with pytest.raises(InputError, match="no architecture 'vit_tiny'"):
        published("vit_tiny")
    with pytest.raises(InputError, match="did you mean 'depths'"):
        published("deit_large", deptsh=[1])


def test_importing_the_package_or_its_configuration_does_not_import_timm():
    code = "import sys, m2mkd, m2mkd.config.published, m2mkd.cli; sys.exit('timm' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_config():
    data = resolve_data_config(model=small("vmoe_base_patch16_224"))
    assert data["input_size"] == (3, 224, 224)  # that of the weights, as timm has it, whatever img_size says
    assert data["interpolation"] == "bicubic"
    assert data["mean"] == (0.485, 0.456, 0.406)
    assert timm.get_pretrained_cfg("nac_tiny_imagenet_64").input_size == (3, 64, 64)
    assert timm.get_pretrained_cfg("staged_deit_huge_patch14_224").input_size == (3, 224, 224)


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_the_named_parts_are_the_first_convolution_and_the_classifier(name):
    model = small(name)
    assert isinstance(model.get_submodule(model.default_cfg["first_conv"]), nn.Conv2d)
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_features_then_head_is_the_model(images, name):
    model = small(name)
    features = model.forward_features(images)
    torch.testing.assert_close(model.forward_head(features), model(images))
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.head_hidden_size) == (2, model.num_features)
    torch.testing.assert_close(model.get_classifier()(before), model(images))


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_classifier_can_be_exchanged_and_left_out(images, name):
    model = small(name)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    model.reset_classifier(3)
    assert model.num_classes == 3
    assert model(images).shape == (2, 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), features)
    headless = small(name, num_classes=0)
    assert headless.num_classes == 0
    assert headless(images).shape == features.shape
    assert model.state_dict().keys() == headless.state_dict().keys()


def test_no_pooling_gives_all_tokens(images):
    model = small("vmoe_base_patch16_224", num_classes=0, global_pool="")
    assert model(images).shape == (2, 5, 16)
    torch.testing.assert_close(model(images)[:, 0], small("vmoe_base_patch16_224", num_classes=0)(images))


def test_state_dict_is_that_of_the_class(name):
    assert {key.split(".")[0] for key in small(name).state_dict()} == {"stages"}


@pytest.mark.parametrize("norm", [False, True])
def test_intermediates_are_the_outputs_of_the_blocks(images, name, norm):
    model = small(name)
    outputs: list[Tensor] = []
    blocks = [block for stage in model.stages for block in stage.blocks]
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    final = model.forward_features(images)
    expected = [model.stages[-1].norm(x) if norm else x for x in outputs[: len(blocks)]]

    last, pairs = model.forward_intermediates(images, norm=norm, output_fmt="NLC", return_prefix_tokens=True)
    assert torch.equal(last, final)
    assert len(pairs) == len(blocks) == len(model.feature_info) == 4
    for (spatial, prefix), x in zip(pairs, expected, strict=True):
        assert torch.equal(torch.cat([prefix, spatial], dim=1), x)

    outputs.clear()
    maps = model.forward_intermediates(images, indices=[0, -2], norm=norm, intermediates_only=True)
    assert len(outputs) == 3  # the last block does not run
    for image_map, index in zip(maps, [0, 2], strict=True):
        assert torch.equal(image_map, expected[index][:, 1:].reshape(2, 2, 2, 16).permute(0, 3, 1, 2))

    as_dict = model.forward_intermediates(images, indices=1, norm=norm, output_dict=True, return_prefix_tokens=True)
    assert torch.equal(as_dict["image_features"], final)
    assert torch.equal(as_dict["image_intermediates_prefix"][0], expected[-1][:, :1])


def test_feature_extractor(images, name):
    whole = small(name)
    extractor = small(name, features_only=True, out_indices=(0, 1))
    assert extractor.feature_info.channels() == [16, 16]
    assert extractor.feature_info.reduction() == [16, 16]
    expected = whole.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    for found, wanted in zip(extractor(images), expected, strict=True):
        assert torch.equal(found, wanted)
    kept = {key.removeprefix("model.") for key in extractor.state_dict()}
    blocks = {".".join(key.split(".")[:4]) for key in kept if ".blocks." in key}
    assert blocks == {"stages.0.blocks.0", "stages.1.blocks.0"}
    assert not [key for key in kept if "head" in key or ".norm." in key]
    default = small(name, features_only=True)
    assert [features.shape for features in default(images)] == [(2, 16, 2, 2)] * 3


def test_unknown_output_format(images):
    with pytest.raises(InputError, match="NCHW or NLC"):
        small("vmoe_base_patch16_224").forward_intermediates(images, output_fmt="NHWC")


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_training_without_further_arguments(images, name):
    model = small(name, drop_path_rate=0.5).train()
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    torch.manual_seed(3)
    first = model(images)
    torch.manual_seed(3)
    assert torch.equal(model(images), first)
    assert not torch.equal(model(images), first)


def test_a_noisy_router_draws_from_the_global_generator(images):
    model = small("vmoe_base_patch16_224", router="vmoe", router_noise=100.0).train()
    for forward in (model, model.forward_features):
        torch.manual_seed(3)
        first = forward(images)
        torch.manual_seed(3)
        assert torch.equal(forward(images), first)
        assert not torch.equal(forward(images), first)
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize("router", ["naive", "vmoe"])
def test_gradient_checkpointing_changes_memory_only(images, name, router):
    changes = {"router": router} if name.startswith("vmoe") else {}

    def step(checkpointing: bool) -> tuple[list[Tensor | None], int]:
        model = small(name, drop_path_rate=0.5, **changes).train()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(2)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x.numel()), x)[1], lambda x: x):
            loss = model(images).square().sum()
        loss.backward()
        return [parameter.grad for parameter in model.parameters()], sum(saved)

    (plain, much), (checkpointed, little) = step(False), step(True)
    assert little < much / 2
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_weight_decay_spares_what_the_model_names(name):
    model = small(name)
    no_weight_decay = {id(parameter) for key, parameter in model.named_parameters() if key in model.no_weight_decay()}
    assert len(no_weight_decay) == len(model.no_weight_decay()) > 0
    decayed = [group for group in create_optimizer_v2(model, "adamw", weight_decay=0.1).param_groups if group["weight_decay"]]
    assert not no_weight_decay & {id(parameter) for group in decayed for parameter in group["params"]}


def test_layer_decay_grows_towards_the_head(name):
    model = small(name)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    optimizer = create_optimizer_v2(model, "adamw", layer_decay=0.5, weight_decay=0.1)
    scale = {names[id(parameter)]: group["lr_scale"] for group in optimizer.param_groups for parameter in group["params"]}
    found = [scale[f"stages.{place}.attn.qkv.weight"] for place in ("0.blocks.0", "1.blocks.0", "1.blocks.1", "2.blocks.0")]
    assert [scale["stages.0.cls_token"], *found, scale["stages.2.head.weight"]] == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5, 1]
    assert scale["stages.2.norm.weight"] == found[-1]
    if "stages.0.post_stitch.fc.weight" in scale:
        assert scale["stages.0.post_stitch.fc.weight"] == scale["stages.1.pre_stitch.fc.weight"] == found[0]
        assert scale["stages.2.pre_stitch.fc.weight"] == found[2]
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert sorted(set(coarse.values())) == [0, 1, 2, 3, 4]
    assert coarse["stages.1.blocks.0.norm1.weight"] == coarse["stages.1.blocks.1.norm1.weight"] == 2


def test_groups_of_a_circuit_follow_its_forward_pass():
    model = small("nac_tiny_imagenet_64")
    groups = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    assert groups.keys() == dict(model.named_parameters()).keys()
    part = {}
    for key, group in groups.items():
        part.setdefault(group, set()).add(".".join(key.split(".")[: 2 if key.startswith("propagators") else 1]))
    latents = {"input_latents", "mediator_latents", "output_latents", "latent_seeder"}
    assert [part[group] for group in sorted(part)] == [
        {"input_tokenizer"} | latents,
        {"read_in"},
        {"propagators.0"},
        {"propagators.1"},
        {"read_out"},
        {"output_tokenizer"},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": True}, "there are no weights to download"),
        ({"in_chans": 1}, "in_chans 1"),
        ({"img_size": (32, 64)}, "not square"),
        ({"img_size": 33}, "not a multiple"),
        ({"drop_rate": 0.1}, "drop_path_rate"),
        ({"global_pool": "avg"}, "global_pool 'avg'"),
        ({"heads": 3}, "heads 3"),
    ],
)
@pytest.mark.parametrize("name", ["staged_deit_large_patch16_224", "nac_tiny_imagenet_64"])
def test_refusals_are_one_line(name, arguments, message):
    if name.startswith("nac") and "heads" in arguments:
        arguments, message = {"tokenizer": {"depths": [1, 1, 1, 1]}}, "one to three"
    with pytest.raises(InputError, match=message) as error:
        small(name, **arguments)
    assert "\n" not in str(error.value)


def test_a_circuit_has_no_feature_maps_and_no_checkpointing():
    with pytest.raises(InputError, match="forward_features"):
        small("nac_tiny_imagenet_64", features_only=True)
    with pytest.raises(InputError, match="noise"):
        small("nac_tiny_imagenet_64").set_grad_checkpointing()


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="wdth"):
        small("vmoe_base_patch16_224", wdth=3)


def test_options_of_architecture_and_class():
    model = small("vmoe_base_patch16_224", moe_blocks="every_2")
    assert [hasattr(block.mlp, "gate") for stage in model.stages for block in stage.blocks] == [False, True, False, True]
    circuit = small("nac_tiny_imagenet_64", prior="ring_of_cliques", drop_path_rate=0.3)
    assert isinstance(circuit, TimmNAC) and circuit.prior == "ring_of_cliques"
    assert circuit.config.drop_path == 0.3
    assert isinstance(small("staged_deit_large_patch16_224"), StagedViT)


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_own_checkpoint_file(images, name, tmp_path):
    model = small(name)
    torch.save({"model": model.state_dict()}, tmp_path / "own.pth")
    torch.manual_seed(5)
    overlay = {"file": str(tmp_path / "own.pth")}
    sizes = NAC if name.startswith("nac") else TRANSFORMERS[name]
    create = {"pretrained": True, "img_size": 32, "pretrained_cfg_overlay": overlay | {"num_classes": 5}} | sizes
    assert torch.equal(timm.create_model(name, num_classes=5, **create).eval()(images), model(images))
    other = timm.create_model(name, num_classes=3, **create).eval()
    assert other(images).shape == (2, 3)
    torch.testing.assert_close(other.forward_features(images), model.forward_features(images))


def test_weights_of_timms_flat_network(images):
    torch.manual_seed(0)
    flat = timm.models.VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=4, num_heads=2, num_classes=5).eval()
    model = small("staged_deit_large_patch16_224")
    model.load_state_dict(registry.checkpoint_filter_fn(flat.state_dict(), model))
    torch.testing.assert_close(model(images), flat(images))


def test_a_foreign_state_dict_is_refused(name):
    with pytest.raises(InputError, match=r"conv1\.weight"):
        registry.checkpoint_filter_fn({"conv1.weight": torch.zeros(1)}, small(name))


def test_positions_of_another_image_size_are_interpolated(name):
    model = small(name)
    larger = small(name, img_size=64)
    larger.load_state_dict(registry.checkpoint_filter_fn(model.state_dict(), larger))
    positions = larger.stages[0].pos_embed
    assert positions.shape == (1, 17, 16)
    assert torch.equal(positions[:, 0], model.stages[0].pos_embed[:, 0])


@pytest.mark.parametrize(
    ("name", "recording", "changes"),
    [
        ("staged_deit_large_patch16_224", "vit_teacher", {"width": 32, "heads": 4, "depths": [2, 2, 2, 2]}),
        ("vmoe_base_patch16_224", "vmoe_full", {"width": 24, "heads": 3, "depths": [2, 2, 2, 2]}),
        (
            "vmoe_base_patch16_224",
            "vmoe_full_stitch",
            {"width": 24, "heads": 3, "depths": [2, 2, 2, 2], "stitch": "kept", "stitch_width": 32},
        ),
    ],
)
def test_released_checkpoint_file(fixtures_dir, name, recording, changes):
    """The recorded output of the released network, through timm alone."""
    import numpy as np

    overlay = {"file": str(fixtures_dir / "vmoe" / f"{recording}.safetensors"), "num_classes": 10}
    model = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=10, img_size=32, patch_size=8, **changes
    ).eval()
    with np.load(fixtures_dir / "vmoe" / "vmoe_fixtures.npz") as recorded:
        images = torch.from_numpy(recorded["x"])
        key = f"{recording}.logits" if f"{recording}.logits" in recorded else f"{recording}.out"
        expected = torch.from_numpy(recorded[key])
    torch.testing.assert_close(model(images), expected, rtol=0, atol=5e-6 * expected.abs().max().item())
