"""Hybrid networks, and the assembly of what they trained."""

import pytest
import torch
from torch import Tensor, nn

from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.distill.hybrid import DistillationHybrid, IncubationHybrid, SharedPrefix, freeze
from m2mkd.distill.transfer import assemble, load_strictly, stitch_tensors
from m2mkd.errors import InputError
from m2mkd.models.vit import StagedViT, build_stage, incubation_config
from m2mkd.models.vmoe import VMoE, build_vmoe_module

META = ViTConfig(patch_size=4, width=16, heads=2, depths=(1, 2, 1))
TEACHER = META.model_copy(update={"depths": (2, 3, 2)})
STUDENT = VMoEConfig(patch_size=4, width=8, heads=2, depths=(1, 1, 1), experts=3)
SIZES = {"image_size": 8, "num_classes": 5}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def distillation_hybrid(index: int, drop_path: float = 0.0) -> DistillationHybrid:
    student = build_vmoe_module(STUDENT, index, stitch_width=16, drop_path=drop_path, **SIZES)
    teacher = build_stage(TEACHER, index, drop_path=drop_path, **SIZES)
    return DistillationHybrid(StagedViT(META, drop_path=drop_path, **SIZES), index, student, teacher)


@pytest.mark.parametrize("index", range(3))
def test_gradients_reach_all_of_the_student_and_nothing_else(images, index):
    hybrid = distillation_hybrid(index).train()
    student, teacher = hybrid(images)
    assert student.shape == teacher.shape == (4, 5)
    assert not teacher.requires_grad
    student.square().sum().backward()
    for name, parameter in hybrid.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == name.startswith("student."), name


@pytest.mark.parametrize("index", range(3))
def test_the_meta_models_own_module_gives_back_the_meta_model(images, index):
    meta = StagedViT(META, **SIZES).eval()
    own = build_stage(META, index, **SIZES)
    own.load_state_dict(meta.stages[index].state_dict())
    hybrid = DistillationHybrid(meta, index, own, meta.stages[index]).eval()
    expected = meta(images)
    logits = hybrid(images)
    assert torch.equal(logits.student, expected)
    assert torch.equal(logits.teacher, expected)
    assert torch.equal(hybrid.student_logits(images), expected)


def test_frozen_parts_stay_in_evaluation_mode(images):
    hybrid = distillation_hybrid(1, drop_path=0.9).train()
    assert hybrid.student.training
    assert not any(module.training for part in (hybrid.prefix, hybrid.suffix, hybrid.teacher) for module in part.modules())
    assert torch.equal(hybrid(images).teacher, hybrid(images).teacher)


def test_a_shared_prefix_is_the_prefix_of_each_in_any_order(images):
    meta = StagedViT(META, **SIZES)
    students = [build_vmoe_module(STUDENT, index, stitch_width=16, **SIZES).eval() for index in range(3)]
    teachers = [build_stage(TEACHER, index, **SIZES) for index in range(3)]
    shared = SharedPrefix(meta)
    other = torch.randn(4, 3, 8, 8)
    for batch, index in [(images, 0), (images, 1), (images, 2), (images, 1), (other, 2), (images, 2), (other, 0)]:
        alone = DistillationHybrid(meta, index, students[index], teachers[index])
        together = DistillationHybrid(meta, index, students[index], teachers[index], shared)
        assert torch.equal(together(batch).student, alone(batch).student)
        assert torch.equal(together(batch).teacher, alone(batch).teacher)
        assert torch.equal(together.student_logits(batch), alone.student_logits(batch))
    assert not any(parameter.requires_grad for parameter in shared.parameters())
    assert not shared(images, 2).requires_grad


def test_a_shared_prefix_stays_in_evaluation_mode(images):
    shared = SharedPrefix(StagedViT(META, drop_path=0.9, **SIZES))
    hybrid = DistillationHybrid(StagedViT(META, **SIZES), 2, build_vmoe_module(STUDENT, 2, stitch_width=16, **SIZES), shared=shared).train()
    assert not any(module.training for module in shared.modules())
    assert torch.equal(shared(images, 2), shared(images.clone(), 2))
    assert hybrid.student.training


def test_without_a_teacher(images):
    hybrid = DistillationHybrid(StagedViT(META, **SIZES), 1, build_vmoe_module(STUDENT, 1, stitch_width=16, **SIZES))
    assert hybrid.train()(images).teacher is None
    assert hybrid(images).student.requires_grad


class OneToken(nn.Module):
    """A student of another family: one token for the suffix, and an argument of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(3 * 8 * 8, 16)

    def forward(self, images: Tensor, *, noise: Tensor) -> Tensor:
        return (self.read(images.flatten(1)) + noise).unsqueeze(1)


def test_student_inputs_are_passed_on(images):
    meta = StagedViT(META, **SIZES)
    hybrid = DistillationHybrid(meta, 0, OneToken(), build_stage(TEACHER, 0, **SIZES)).train()
    noise = torch.randn(4, 16)
    expected = meta.stages[2](meta.stages[1](hybrid.student(images, noise=noise)))
    assert torch.equal(hybrid(images, noise=noise).student, expected)
    assert torch.equal(hybrid.student_logits(images, noise=noise), expected)
    assert not torch.equal(hybrid(images, noise=2 * noise).student, expected)


@pytest.mark.parametrize("index", [-1, 3])
def test_modules_are_not_counted_from_the_end(index):
    with pytest.raises(InputError, match="modules 0 to 2"):
        DistillationHybrid(StagedViT(META, **SIZES), index, nn.Identity())
    with pytest.raises(InputError, match="modules 0 to 2"):
        IncubationHybrid(StagedViT(META, **SIZES), index)


@pytest.mark.parametrize("index", range(3))
def test_incubation_trains_its_target_through_the_frozen_suffix(images, index):
    network = StagedViT(incubation_config(META, TEACHER, index), drop_path=0.1, **SIZES)
    hybrid = IncubationHybrid(network, index).train()
    assert len(hybrid.target.blocks) == TEACHER.depths[index]
    hybrid(images).square().sum().backward()
    for name, parameter in hybrid.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == name.startswith("target."), name
    assert torch.equal(hybrid.eval()(images), network.eval()(images))


@pytest.mark.parametrize(("index", "frozen"), [(0, "suffix"), (2, "prefix")])
def test_drop_path_acts_in_the_frozen_meta_blocks_of_incubation(images, index, frozen):
    hybrid = IncubationHybrid(StagedViT(incubation_config(META, TEACHER, index), drop_path=0.9, **SIZES), index).train()
    hybrid.target.eval()
    outputs = [hybrid(images) for _ in range(8)]
    assert not all(torch.equal(outputs[0], output) for output in outputs)
    getattr(hybrid, frozen).eval()
    assert torch.equal(hybrid(images), hybrid(images))


def test_freeze():
    stage = freeze(build_stage(META, 1, **SIZES))
    assert not stage.training
    assert not any(parameter.requires_grad for parameter in stage.parameters())


def trained_modules(config: VMoEConfig = STUDENT) -> dict[int, dict[str, Tensor]]:
    return {index: build_vmoe_module(config, index, stitch_width=16, **SIZES).state_dict() for index in range(3)}


def test_assembly_of_a_vit_runs_as_its_modules_in_a_row(images):
    modules = [build_stage(TEACHER, index, **SIZES).eval() for index in range(3)]
    network = assemble({index: module.state_dict() for index, module in enumerate(modules)}, StagedViT(TEACHER, **SIZES)).eval()
    assert torch.equal(network(images), nn.Sequential(*modules)(images))


def test_assembly_drops_or_keeps_stitch_layers(images):
    states = trained_modules()
    dropped = assemble(states, VMoE(STUDENT, **SIZES))
    kept = assemble(states, VMoE(STUDENT.model_copy(update={"stitch": "kept"}), stitch_width=16, **SIZES))
    for index in range(3):
        assert states[index].keys() - dropped.stages[index].state_dict().keys() == stitch_tensors(index, 3)
        assert states[index].keys() == kept.stages[index].state_dict().keys()
        for network in (dropped, kept):
            assert all(torch.equal(tensor, states[index][key]) for key, tensor in network.stages[index].state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda states: states.pop(1), r"modules \[0, 2\].*0 to 2"),
        (lambda states: states.update({3: states[2]}), r"modules \[0, 1, 2, 3\]"),
        (lambda states: states[1].pop("blocks.0.norm1.weight"), r"module 1 lacks blocks\.0\.norm1\.weight"),
        (lambda states: states[0].pop("post_stitch.fc.bias"), r"module 0 lacks post_stitch\.fc\.bias"),
        (lambda states: states[2].update({"extra": torch.zeros(1)}), r"module 2 has extra"),
        (lambda states: states.update({0: states[1], 1: states[0]}), r"module 0 lacks"),
        (lambda states: states[2].update({"head.weight": torch.zeros(7, 8)}), r"module 2: head\.weight is \(7, 8\), expected \(5, 8\)"),
    ],
)
def test_assembly_is_strict(change, message):
    states = trained_modules()
    change(states)
    with pytest.raises(InputError, match=message):
        assemble(states, VMoE(STUDENT, **SIZES))


def test_assembly_of_some_modules_leaves_the_others(images):
    states, network = trained_modules(), VMoE(STUDENT, **SIZES)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assemble({index: states[index] for index in (0, 2)}, network, only=(0, 2))
    for index in range(3):
        for key, tensor in network.stages[index].state_dict().items():
            assert torch.equal(tensor, before[f"stages.{index}.{key}"] if index == 1 else states[index][key])


@pytest.mark.parametrize(
    ("given", "only", "message"),
    [
        ((0, 1), (0, 2), r"got modules \[0, 1\] for modules \[0, 2\]"),
        ((0, 1, 2), (0, 2), r"got modules \[0, 1, 2\] for modules \[0, 2\]"),
        ((0, 3), (0, 3), "module 3 does not exist: this network has modules 0 to 2"),
        ((0,), (0, 0), "one stands twice"),
    ],
)
def test_assembly_of_some_modules_is_strict(given, only, message):
    states = trained_modules()
    with pytest.raises(InputError, match=message):
        assemble({index: states.get(index, {}) for index in given}, VMoE(STUDENT, **SIZES), only)


def test_a_refused_stage_is_left_as_it_was():
    stage = build_stage(META, 2, **SIZES)
    before = {key: tensor.clone() for key, tensor in stage.state_dict().items()}
    state = build_stage(META, 2, **SIZES).state_dict() | {"head.bias": torch.zeros(3)}
    with pytest.raises(InputError, match=r"stage 2: head\.bias"):
        load_strictly(stage, state, "stage 2")
    assert all(torch.equal(tensor, before[key]) for key, tensor in stage.state_dict().items())
