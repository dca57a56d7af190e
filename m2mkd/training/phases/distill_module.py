"""m2mKD: one student module replaces the meta stage, taught by labels and by the hybrid with the teacher module (vmoe.md 5)."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from m2mkd.distill.hybrid import DistillationHybrid, SharedPrefix
from m2mkd.distill.losses import Loss, distillation_loss
from m2mkd.distill.objective import TaughtLoss
from m2mkd.distill.transfer import assemble, load_strictly
from m2mkd.families.build import build_module, noise_arguments, regularisation
from m2mkd.models.vit import StagedViT, build_stage
from m2mkd.models.weights import stages_of
from m2mkd.seeds import derive_seed, forked_rng
from m2mkd.study.phases import DistillModule
from m2mkd.training.hybrid import hybrid_task
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
    hybrids = [_hybrid(job, meta, shared) for job in jobs]
    measured = train_together(jobs, [_task(job, hybrid) for job, hybrid in zip(jobs, hybrids, strict=True)], config.data, config.recipe)
    return [Outcome(found, hybrid.student.state_dict()) for found, hybrid in zip(measured, hybrids, strict=True)]


def _hybrid(job: Job[DistillModule], meta: StagedViT, shared: SharedPrefix) -> DistillationHybrid:
    config = job.config
    size, classes = config.data.image_size, config.data.classes
    teacher = None
    if config.taught_by.needs_teacher:
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
    return DistillationHybrid(meta, config.index, student, teacher, shared)


def _task(job: Job[DistillModule], hybrid: DistillationHybrid) -> Task:
    config = job.config
    return hybrid_task(
        hybrid,
        _taught_loss(job, hybrid),
        partial(noise_arguments, config.student),
        partial(regularisation, config.student, hybrid.student, config.compat),
        config.compat,
        predict=hybrid.student_logits,
        late_schedule=late_schedule(config),
    )


def _taught_loss(job: Job[DistillModule], hybrid: DistillationHybrid) -> TaughtLoss | Callable[[Tensor, Tensor, Tensor | None], Loss]:
    config = job.config
    if config.objective is None:
        assert config.loss is not None, "a module has a loss or an objective"
        return partial(distillation_loss, distillation=config.loss, kl_norm=kl_norm(config))
    with forked_rng("init", "objective", config.index, job.seed):
        return TaughtLoss(
            config.objective,
            [hybrid.student],
            [] if hybrid.teacher is None else [hybrid.teacher],
            smoothing=config.recipe.augmentation.label_smoothing,
            kl_norm=kl_norm(config),
        )
