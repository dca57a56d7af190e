"""What the hybrid networks compute block by block, and what they keep for the backward pass."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.distill.hybrid import DistillationHybrid, IncubationHybrid
from m2mkd.models.vit import StagedViT, build_stage, incubation_config
from m2mkd.models.vmoe import build_vmoe_module

META = ViTConfig(patch_size=4, width=16, heads=2, depths=(2, 1, 2))
TEACHER = META.model_copy(update={"depths": (3, 2, 4)})
STUDENT = VMoEConfig(patch_size=4, width=8, heads=2, depths=(1, 2, 1), experts=3)
SIZES = {"image_size": 8, "num_classes": 5}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def by_hand(parts: Iterable[tuple[nn.Module, int, int]], network: StagedViT, x: Tensor) -> Tensor:
    """Run the given blocks of each stage one by one between the network's embedding and its classifier."""
    first, last = network.stages[0], network.stages[-1]
    x = torch.cat([first.cls_token.expand(len(x), -1, -1), first.patch_embed(x)], dim=1) + first.pos_embed
    for stage, start, stop in parts:
        for number in range(start, stop):
            x = stage.blocks[number](x)
    return last.head(last.norm(x)[:, 0])


@pytest.mark.parametrize("index", range(3))
def test_incubation_in_a_deep_meta_model_runs_every_block_of_every_stage(images, index):
    network = StagedViT(incubation_config(META, TEACHER, index), **SIZES).eval()
    depths = [TEACHER.depths[i] if i == index else META.depths[i] for i in range(3)]
    expected = by_hand([(stage, 0, depth) for stage, depth in zip(network.stages, depths, strict=True)], network, images)
    torch.testing.assert_close(IncubationHybrid(network, index).eval()(images), expected)


@pytest.mark.parametrize("index", range(3))
def test_distillation_in_a_deep_meta_model_runs_every_block_of_every_stage(images, index):
    """The released code takes the number of the stage for that of a block, so that a deep meta loses blocks (vmoe.md 7, finding 15)."""
    meta, teacher = StagedViT(META, **SIZES).eval(), StagedViT(TEACHER, **SIZES).eval()
    mixed = [(teacher if i == index else meta).stages[i] for i in range(3)]
    whole = StagedViT(META.model_copy(update={"depths": tuple(len(stage.blocks) for stage in mixed)}), **SIZES).eval()
    for stage, source in zip(whole.stages, mixed, strict=True):
        stage.load_state_dict(source.state_dict())
    student = build_vmoe_module(STUDENT, index, stitch_width=16, **SIZES)
    hybrid = DistillationHybrid(meta, index, student, teacher.stages[index]).eval()
    logits = hybrid(images)
    expected = by_hand([(stage, 0, len(stage.blocks)) for stage in whole.stages], whole, images)
    torch.testing.assert_close(logits.teacher, expected)

    x = images
    for i, stage in enumerate(meta.stages):
        x = student(x) if i == index else stage(x)
    assert torch.equal(logits.student, x)


def hybrids(index: int) -> tuple[DistillationHybrid, IncubationHybrid]:
    student = build_vmoe_module(STUDENT, index, stitch_width=16, **SIZES)
    distillation = DistillationHybrid(StagedViT(META, **SIZES), index, student, build_stage(TEACHER, index, **SIZES))
    incubation = IncubationHybrid(StagedViT(incubation_config(META, TEACHER, index), drop_path=0.1, **SIZES), index)
    return distillation.train(), incubation.train()


def kept_for_backward(network: Callable[[Tensor], object], images: Tensor) -> set[int]:
    """Addresses of the storages that a forward pass saves for the backward pass."""
    addresses: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (addresses.add(x.untyped_storage().data_ptr()), x)[1], lambda x: x):
        network(images)
    return addresses


def outputs_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """A list that fills with all that the modules inside give; as it holds them, their addresses stay theirs."""
    outputs: list[Tensor] = []
    for module in modules:
        for part in module.modules():
            part.register_forward_hook(lambda _, inputs, output: outputs.append(output) if isinstance(output, Tensor) else None)
    return outputs


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("kind", [0, 1], ids=["distillation", "incubation"])
def test_the_graph_holds_nothing_of_the_prefix(images, kind, index):
    hybrid = hybrids(index)[kind]
    outputs = outputs_of(hybrid.prefix)
    kept = kept_for_backward(hybrid, images)
    handed_on = outputs[-1].untyped_storage().data_ptr()
    inside = {output.untyped_storage().data_ptr() for output in outputs} - {handed_on}
    assert len(inside) > 10
    assert not inside & kept
    assert not {parameter.untyped_storage().data_ptr() for parameter in hybrid.prefix.parameters()} & kept


@pytest.mark.parametrize("index", range(3))
def test_the_graph_holds_nothing_of_the_teacher(images, index):
    hybrid = hybrids(index)[0]
    inputs: list[Tensor] = []
    hybrid.teacher.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    outputs = outputs_of([hybrid.teacher])
    kept = kept_for_backward(hybrid, images)
    shared_with_student = inputs[0].untyped_storage().data_ptr()
    inside = {output.untyped_storage().data_ptr() for output in outputs} - {shared_with_student}
    assert not inside & kept
    assert not {parameter.untyped_storage().data_ptr() for parameter in hybrid.teacher.parameters()} & kept


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("kind", [0, 1], ids=["distillation", "incubation"])
def test_no_frozen_parameter_gets_a_gradient(images, kind, index):
    hybrid = hybrids(index)[kind]
    trained = {id(parameter) for parameter in (hybrid.target if kind else hybrid.student).parameters()}
    asked: set[int] = set()
    for parameter in hybrid.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: asked.add(id(parameter)))
    logits = hybrid(images)
    (logits if kind else logits.student).square().sum().backward()
    assert asked == trained
    assert {id(parameter) for parameter in hybrid.parameters() if parameter.grad is not None} == trained
