"""Modules that are distilled in lock step run the first stages of their meta model once, whatever a batch is accumulated from."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.config.recipe import Augmentation, Recipe
from m2mkd.data.pack import Split
from m2mkd.data.stream import TrainStream, eval_batches
from m2mkd.distill.hybrid import DistillationHybrid, SharedPrefix
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.models.vit import StagedViT
from m2mkd.models.vmoe import build_vmoe_module
from m2mkd.seeds import forked_rng
from m2mkd.training import shares
from m2mkd.training.loop import Task, Trainee, fit
from m2mkd.training.machine import Machine

IMAGES, BATCH, EPOCHS = 16, 8, 2
META = ViTConfig(patch_size=8, width=16, heads=2, depths=(1, 1, 1))
STUDENT = VMoEConfig(patch_size=8, width=8, heads=2, depths=(1, 1, 1), experts=3)
SIZES = {"image_size": 16, "num_classes": 5}
MIXING = Augmentation(crop_scale=(0.8, 1.0), rand_augment=None, erase=0.0, mixup=0.8, cutmix=1.0)
RECIPE = Recipe(epochs=EPOCHS, batch_size=BATCH, lr=1e-3, lr_batch=None, eval_every=EPOCHS, augmentation=MIXING)


def distil(folder: Path, indices: tuple[int, ...], device_batch: int | None) -> tuple[list[dict[str, Tensor]], list[int], SharedPrefix]:
    """Weights of modules that were distilled together, the calls of each meta stage, and what they shared."""
    generator = np.random.default_rng(0)
    split = Split(generator.integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8), np.arange(IMAGES) % 5)
    with forked_rng("meta"):
        meta = StagedViT(META, **SIZES)
    shared, calls, students, trainees = SharedPrefix(meta), [0, 0, 0], [], []

    def count(stage: int) -> None:
        calls[stage] += 1

    for stage, module in enumerate(meta.stages):
        module.register_forward_pre_hook(lambda *_, stage=stage: count(stage))
    for index in indices:
        with forked_rng("student", index):
            student = build_vmoe_module(STUDENT, index, stitch_width=META.width, drop_path=0.3, **SIZES)
        hybrid = DistillationHybrid(meta, index, student, shared=shared)

        def loss(images: Tensor, targets: Tensor, _: torch.Generator, hybrid=hybrid) -> Tensor:
            return soft_cross_entropy(hybrid(images).student, targets)

        students.append(student)
        trainees.append(Trainee(Task(student, hybrid, loss, hybrid.student_logits), folder / str(index), str(index)))
    stream = TrainStream(split, range(IMAGES), 5, RECIPE, ("data",), 0, "cpu")
    machine = Machine(torch.device("cpu"), device_batch=device_batch)
    fit(trainees, RECIPE, stream, lambda: eval_batches(split, 16, IMAGES), ("noise",), machine)
    return [student.state_dict() for student in students], calls, shared


@pytest.mark.parametrize("device_batch", [None, 4, 2])
def test_a_micro_batch_goes_through_the_first_stages_once(tmp_path, device_batch):
    together, calls, _ = distil(tmp_path / "together", (1, 2), device_batch)
    micro_batches = BATCH // (device_batch or BATCH)
    # The second stage is before the second module alone; the last is after the first one, and each of its calls is with a gradient.
    once = EPOCHS * (IMAGES // BATCH) * micro_batches + 1  # the validation set is one batch
    assert calls[:2] == [once, once]
    for index, state in zip((1, 2), together, strict=True):
        ((alone,), _, _) = distil(tmp_path / "alone", (index,), device_batch)
        assert all(torch.equal(tensor, alone[name]) for name, tensor in state.items())


def test_what_is_remembered_goes_with_the_batch(tmp_path):
    gc.collect()
    before = len(shares.divided)
    _, _, shared = distil(tmp_path, (1, 2), 4)
    gc.collect()
    assert not len(shared._reached)
    assert len(shares.divided) == before


def test_compiled_hybrids_share_it_too():
    meta = StagedViT(META, **SIZES)
    shared = SharedPrefix(meta)
    hybrids = [DistillationHybrid(meta, index, build_vmoe_module(STUDENT, index, stitch_width=META.width, **SIZES)) for index in (1, 2)]
    calls: list[int] = []
    meta.stages[0].register_forward_pre_hook(lambda *_: calls.append(0))
    for batch in torch.randn(2, 4, 3, 16, 16).unbind():
        few = batch.clone()
        expected = [hybrid(few).student for hybrid in hybrids]
        calls.clear()
        for hybrid, logits in zip(hybrids, expected, strict=True):
            hybrid.shared = shared
            assert torch.equal(torch.compile(hybrid, backend="eager")(few).student, logits)
            hybrid.shared = None
        assert len(calls) == 1
