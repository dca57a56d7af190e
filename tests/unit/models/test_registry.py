"""The registered models, as users of timm make them, train them and give them weights."""

import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from m2mkd.config import load
from m2mkd.config.published import PUBLISHED, published
from m2mkd.errors import InputError
from m2mkd.models import registry
from m2mkd.models.timm_nac import TimmNAC
from m2mkd.models.vit import StagedViT
from tests.unit.models.timm_models import IMAGES, NAC, TRANSFORMERS, small

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


@pytest.mark.parametrize("name", [*TRANSFORMERS, "nac_tiny_imagenet_64"])
def test_training_without_further_arguments(name):
    model = small(name, drop_path_rate=0.5).train()
    model(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    torch.manual_seed(3)
    first = model(IMAGES)
    torch.manual_seed(3)
    assert torch.equal(model(IMAGES), first)
    assert not torch.equal(model(IMAGES), first)


def test_a_noisy_router_draws_from_the_global_generator():
    model = small("vmoe_base_patch16_224", router="vmoe", router_noise=100.0).train()
    for forward in (model, model.forward_features):
        torch.manual_seed(3)
        first = forward(IMAGES)
        torch.manual_seed(3)
        assert torch.equal(forward(IMAGES), first)
        assert not torch.equal(forward(IMAGES), first)
    assert torch.equal(model.eval()(IMAGES), model(IMAGES))


@pytest.mark.parametrize("router", ["naive", "vmoe"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_gradient_checkpointing_changes_memory_only(name, router):
    changes = {"router": router} if name.startswith("vmoe") else {}

    def step(checkpointing: bool) -> tuple[list[Tensor | None], int]:
        model = small(name, drop_path_rate=0.5, **changes).train()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(2)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x.numel()), x)[1], lambda x: x):
            loss = model(IMAGES).square().sum()
        loss.backward()
        return [parameter.grad for parameter in model.parameters()], sum(saved)

    (plain, much), (checkpointed, little) = step(False), step(True)
    assert little < much / 2
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b)


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
def test_own_checkpoint_file(name, tmp_path):
    model = small(name)
    torch.save({"model": model.state_dict()}, tmp_path / "own.pth")
    torch.manual_seed(5)
    overlay = {"file": str(tmp_path / "own.pth")}
    sizes = NAC if name.startswith("nac") else TRANSFORMERS[name]
    create = {"pretrained": True, "img_size": 32, "pretrained_cfg_overlay": overlay | {"num_classes": 5}} | sizes
    assert torch.equal(timm.create_model(name, num_classes=5, **create).eval()(IMAGES), model(IMAGES))
    other = timm.create_model(name, num_classes=3, **create).eval()
    assert other(IMAGES).shape == (2, 3)
    torch.testing.assert_close(other.forward_features(IMAGES), model.forward_features(IMAGES))


def test_weights_of_timms_flat_network():
    torch.manual_seed(0)
    flat = timm.models.VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=4, num_heads=2, num_classes=5).eval()
    model = small("staged_deit_large_patch16_224")
    model.load_state_dict(registry.checkpoint_filter_fn(flat.state_dict(), model))
    torch.testing.assert_close(model(IMAGES), flat(IMAGES))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_foreign_state_dict_is_refused(name):
    with pytest.raises(InputError, match=r"conv1\.weight"):
        registry.checkpoint_filter_fn({"conv1.weight": torch.zeros(1)}, small(name))


@pytest.mark.parametrize("name", TRANSFORMERS)
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
    overlay = {"file": str(fixtures_dir / "vmoe" / f"{recording}.safetensors"), "num_classes": 10}
    model = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=10, img_size=32, patch_size=8, **changes
    ).eval()
    with np.load(fixtures_dir / "vmoe" / "vmoe_fixtures.npz") as recorded:
        images = torch.from_numpy(recorded["x"])
        key = f"{recording}.logits" if f"{recording}.logits" in recorded else f"{recording}.out"
        expected = torch.from_numpy(recorded[key])
    torch.testing.assert_close(model(images), expected, rtol=0, atol=5e-6 * expected.abs().max().item())
