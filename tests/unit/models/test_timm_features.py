"""What timm reads off a model beside its logits: features, intermediates, groups of parameters."""

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from m2mkd.errors import InputError
from tests.unit.models.timm_models import IMAGES, TRANSFORMERS, small


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
def test_features_then_head_is_the_model(name):
    model = small(name)
    features = model.forward_features(IMAGES)
    torch.testing.assert_close(model.forward_head(features), model(IMAGES))
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.head_hidden_size) == (2, model.num_features)
    torch.testing.assert_close(model.get_classifier()(before), model(IMAGES))


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_classifier_can_be_exchanged_and_left_out(name):
    model = small(name)
    features = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    model.reset_classifier(3)
    assert model.num_classes == 3
    assert model(IMAGES).shape == (2, 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(IMAGES), features)
    headless = small(name, num_classes=0)
    assert headless.num_classes == 0
    assert headless(IMAGES).shape == features.shape
    assert model.state_dict().keys() == headless.state_dict().keys()


def test_no_pooling_gives_all_tokens():
    model = small("vmoe_base_patch16_224", num_classes=0, global_pool="")
    assert model(IMAGES).shape == (2, 5, 16)
    torch.testing.assert_close(model(IMAGES)[:, 0], small("vmoe_base_patch16_224", num_classes=0)(IMAGES))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_state_dict_is_that_of_the_class(name):
    assert {key.split(".")[0] for key in small(name).state_dict()} == {"stages"}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_intermediates_are_the_outputs_of_the_blocks(name, norm):
    model = small(name)
    outputs: list[Tensor] = []
    blocks = [block for stage in model.stages for block in stage.blocks]
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    final = model.forward_features(IMAGES)
    expected = [model.stages[-1].norm(x) if norm else x for x in outputs[: len(blocks)]]

    last, pairs = model.forward_intermediates(IMAGES, norm=norm, output_fmt="NLC", return_prefix_tokens=True)
    assert torch.equal(last, final)
    assert len(pairs) == len(blocks) == len(model.feature_info) == 4
    for (spatial, prefix), x in zip(pairs, expected, strict=True):
        assert torch.equal(torch.cat([prefix, spatial], dim=1), x)

    outputs.clear()
    maps = model.forward_intermediates(IMAGES, indices=[0, -2], norm=norm, intermediates_only=True)
    assert len(outputs) == 3  # the last block does not run
    for image_map, index in zip(maps, [0, 2], strict=True):
        assert torch.equal(image_map, expected[index][:, 1:].reshape(2, 2, 2, 16).permute(0, 3, 1, 2))

    as_dict = model.forward_intermediates(IMAGES, indices=1, norm=norm, output_dict=True, return_prefix_tokens=True)
    assert torch.equal(as_dict["image_features"], final)
    assert torch.equal(as_dict["image_intermediates_prefix"][0], expected[-1][:, :1])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_feature_extractor(name):
    whole = small(name)
    extractor = small(name, features_only=True, out_indices=(0, 1))
    assert extractor.feature_info.channels() == [16, 16]
    assert extractor.feature_info.reduction() == [16, 16]
    expected = whole.forward_intermediates(IMAGES, indices=[0, 1], intermediates_only=True)
    for found, wanted in zip(extractor(IMAGES), expected, strict=True):
        assert torch.equal(found, wanted)
    kept = {key.removeprefix("model.") for key in extractor.state_dict()}
    blocks = {".".join(key.split(".")[:4]) for key in kept if ".blocks." in key}
    assert blocks == {"stages.0.blocks.0", "stages.1.blocks.0"}
    assert not [key for key in kept if "head" in key or ".norm." in key]
    default = small(name, features_only=True)
    assert [features.shape for features in default(IMAGES)] == [(2, 16, 2, 2)] * 3


def test_unknown_output_format():
    with pytest.raises(InputError, match="NCHW or NLC"):
        small("vmoe_base_patch16_224").forward_intermediates(IMAGES, output_fmt="NHWC")


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_weight_decay_spares_what_the_model_names(name):
    model = small(name)
    no_weight_decay = {id(parameter) for key, parameter in model.named_parameters() if key in model.no_weight_decay()}
    assert len(no_weight_decay) == len(model.no_weight_decay()) > 0
    decayed = [group for group in create_optimizer_v2(model, "adamw", weight_decay=0.1).param_groups if group["weight_decay"]]
    assert not no_weight_decay & {id(parameter) for group in decayed for parameter in group["params"]}


@pytest.mark.parametrize("name", TRANSFORMERS)
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
