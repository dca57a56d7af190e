"""Registered models as programs that need no code of this project: ``torch.export`` with a batch of any size."""

import os
import subprocess
import sys

import pytest
import timm
import torch

from m2mkd.models import registry
from tests.unit.models.timm_models import NAC, VIT

BATCHES = 1, 3, 8
RUN = """
import sys, torch
torch.set_grad_enabled(False)
program = torch.export.load(sys.argv[1]).module()
for images, expected in torch.load(sys.argv[2]):
    assert torch.equal(program(images), expected), len(images)
assert not {"m2mkd", "timm"} & sys.modules.keys()
"""


def small(name: str, **arguments):
    """The registered model with few and narrow layers, in evaluation mode."""
    torch.manual_seed(0)
    family = name.partition("_")[0]
    sizes = {"staged": VIT, "vmoe": VIT | {"experts": 3}, "nac": NAC}[family]
    return timm.create_model(name, **{"num_classes": 5, "img_size": 28 if "patch14" in name else 32} | sizes | arguments).eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    """As whoever deploys a model; with gradients torch chooses other kernels of attention, whose last bits differ."""
    with torch.no_grad():
        yield


def export(model, images):
    """Program of a model, with the number of images left open."""
    return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def compared(model, side: int, batches=BATCHES):
    """Images in batches of several sizes, and what the model itself makes of them."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(batch, 3, side, side, generator=generator) for batch in batches]
    return [(images, model(images)) for images in inputs]


@pytest.mark.parametrize("name", registry.REGISTERED)
def test_an_exported_model_gives_the_bits_of_eager_for_a_batch_of_any_size(name):
    model = small(name)
    cases = compared(model, 28 if "patch14" in name else 32)
    program = export(model, cases[1][0]).module()
    for images, expected in cases:
        found = program(images)
        assert torch.equal(found, expected), (found - expected).abs().max()


@pytest.mark.parametrize("name", ["vmoe_small_patch16_224", "nac_tiny_imagenet_64", "staged_meta_base_patch16_224"])
def test_a_saved_program_runs_without_this_project(name, tmp_path):
    model = small(name)
    cases = compared(model, 32)
    torch.export.save(export(model, cases[1][0]), tmp_path / "model.pt2")
    torch.save(cases, tmp_path / "cases.pt")
    # Else torch loads this project's mend of torchvision (m2mkd/torchvision_cpu.py) where it is installed.
    alone = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", RUN, tmp_path / "model.pt2", tmp_path / "cases.pt"], check=True, cwd=tmp_path, env=alone)


def test_experts_without_tokens_are_exported_too():
    """One image has five tokens and ten token-expert pairs, fewer than there are experts."""
    model = small("vmoe_base_patch16_224", experts=16)
    cases = compared(model, 32)
    program = export(model, cases[1][0]).module()
    assert all(torch.equal(program(images), expected) for images, expected in cases)
    model(cases[0][0])
    assert any(block.mlp.tokens_per_expert.eq(0).any() for stage in model.stages for block in stage.blocks)


def test_exporting_leaves_the_counts_of_the_last_batch_as_they_were():
    model = small("vmoe_base_patch16_224")
    layer = model.stages[0].blocks[0].mlp
    model(torch.randn(2, 3, 32, 32))
    before = layer.tokens_per_expert, layer.router_entropy, layer.dropped_share
    export(model, torch.randn(3, 3, 32, 32))
    assert all(now is then for now, then in zip((layer.tokens_per_expert, layer.router_entropy, layer.dropped_share), before, strict=True))
