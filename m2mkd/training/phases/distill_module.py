"""m2mKD: one student module in the place of the meta stage, taught by labels and by the teacher module there (specification vmoe.md 5)."""

import torch
from torch import Tensor

from m2mkd.config.phases import DistillModule
from m2mkd.config.seeds import derive_seed, forked_rng
from m2mkd.distill.hybrid import DistillationHybrid
from m2mkd.distill.losses import distillation_loss
from m2mkd.distill.transfer import assemble, load_strictly
from m2mkd.models.build import build_module, noise_arguments
from m2mkd.models.vit import Stage, StagedViT, build_stage
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import kl_norm, late_schedule, train
from m2mkd.training.weights import load_weights, stages_of


def run(job: Job[DistillModule]) -> Outcome:
    """Train the student module with its stitch layers; meta model and teacher module are frozen."""
    config = job.config
    size, classes, width = config.data.image_size, config.data.classes, config.meta.width
    meta = StagedViT(config.meta, image_size=size, num_classes=classes)
    assemble(stages_of(load_weights(job.upstream["meta"][0])), meta)
    teacher = None
    if config.loss.kind != "none":
        teacher = build_stage(config.teacher, config.index, image_size=size, num_classes=classes)
        load_strictly(teacher, load_weights(job.upstream["teacher_module"][0]), f"teacher module {config.index}")
    with forked_rng("init", "student module", config.student.family, config.index, job.replicate):
        student = build_module(
            config.student,
            config.index,
            image_size=size,
            num_classes=classes,
            stitch_width=width,
            drop_path=config.recipe.drop_path,
            state_seed=derive_seed("state", config.index, job.replicate),
            compat=config.compat,
        )
    hybrid = DistillationHybrid(meta, config.index, student, teacher)

    def loss(images: Tensor, targets: Tensor, noise: torch.Generator) -> Tensor:
        logits = hybrid(images, **noise_arguments(config.student, noise))
        return distillation_loss(logits.student, targets, logits.teacher, config.loss, kl_norm(config))

    task = Task(
        trained=student,
        network=hybrid,
        loss=loss,
        predict=hybrid.student_logits,
        spared=student.no_weight_decay() if isinstance(student, Stage) else (),
        decay_scalars=config.compat.get("gain_decay") == "decayed",
        late_schedule=late_schedule(config),
    )
    return Outcome(train(job, task, config.data, config.recipe), student.state_dict())
