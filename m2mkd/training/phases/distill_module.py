"""m2mKD: one student module replaces the meta stage, taught by labels and by the hybrid with the teacher module (vmoe.md 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from m2mkd.distill.hybrid import DistillationHybrid, SharedPrefix
from m2mkd.distill.losses import Loss, distillation_loss
from m2mkd.distill.transfer import assemble, load_strictly
from m2mkd.models.build import build_module, noise_arguments, regularisation
from m2mkd.models.vit import Stage, StagedViT, build_stage
from m2mkd.models.weights import stages_of
from m2mkd.seeds import derive_seed, forked_rng
from m2mkd.study.phases import DistillModule
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import kl_norm, late_schedule, train_together


def run(job: Job[DistillModule]) -> Outcome:
    """Train the student module with its stitch layers; meta model and teacher module are frozen."""
    return run_together([job])[0]


def run_together(jobs: Sequence[Job[DistillModule]]) -> list[Outcome]:
    """Train several modules of one student in lock step, each with the same result as alone.

    They share the batches and the meta model; with modules in ascending order, each of its first stages runs once per batch.
    """
    config = jobs[0].config
    meta = StagedViT(config.meta, image_size=config.data.image_size, num_classes=config.data.classes)
    assemble(stages_of(jobs[0].weights("meta")), meta)
    shared = SharedPrefix(meta)
    tasks = [_task(job, meta, shared) for job in jobs]
    measured = train_together(jobs, tasks, config.data, config.recipe)
    return [Outcome(found, task.trained.state_dict()) for found, task in zip(measured, tasks, strict=True)]


def _task(job: Job[DistillModule], meta: StagedViT, shared: SharedPrefix) -> Task:
    config = job.config
    size, classes = config.data.image_size, config.data.classes
    teacher = None
    if config.loss.kind != "none":
        teacher = build_stage(config.teacher, config.index, image_size=size, num_classes=classes)
        load_strictly(teacher, job.weights("teacher_module"), f"teacher module {config.index}")
    with forked_rng("init", "student module", config.student.family, config.index, job.seed):
        student = build_module(
            config.student,
            config.index,
            image_size=size,
            num_classes=classes,
            stitch_width=config.meta.width,
            drop_path=config.recipe.drop_path,
            state_seed=derive_seed("state", config.index, job.seed),
            batch_size=config.recipe.batch_size,
            compat=config.compat,
        )
    hybrid = DistillationHybrid(meta, config.index, student, teacher, shared)

    def loss(images: Tensor, targets: Tensor, noise: torch.Generator) -> Loss:
        logits = hybrid(images, **noise_arguments(config.student, noise))
        value = distillation_loss(logits.student, targets, logits.teacher, config.loss, kl_norm(config))
        return value.with_regulariser(regularisation(student, config.compat))

    return Task(
        trained=student,
        network=hybrid,
        loss=loss,
        predict=hybrid.student_logits,
        no_weight_decay=student.no_weight_decay() if isinstance(student, Stage) else (),
        decay_scalars=config.compat.get("gain_decay") == "decayed",
        late_schedule=late_schedule(config),
    )
