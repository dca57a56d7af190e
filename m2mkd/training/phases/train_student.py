"""Assembled student, trained end to end (specification vmoe.md 5, nac.md 13 and 15)."""

import torch
from torch import Tensor, nn

from m2mkd.config.registered_families import student_family
from m2mkd.distill.hybrid import freeze
from m2mkd.distill.losses import Loss, distillation_loss, labels_loss
from m2mkd.distill.objective import Alongside, TaughtLoss, names_alongside
from m2mkd.distill.transfer import assemble
from m2mkd.evaluation.diagnostics import diagnose, scalars
from m2mkd.families.build import build_student, no_weight_decay, noise_arguments, regularisation
from m2mkd.models.vit import StagedViT
from m2mkd.models.weights import stages_of
from m2mkd.seeds import derive_seed, forked_rng
from m2mkd.study.phases import TrainStudent
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import kl_norm, late_schedule, train


def run(job: Job[TrainStudent]) -> Outcome:
    """Train the student; weights that no distilled module provides start as from scratch, in every variant."""
    config = job.config
    with forked_rng("init", "student", config.student.family, job.seed):
        student = build_student(
            config.student,
            image_size=config.data.image_size,
            num_classes=config.data.classes,
            prior=config.prior,
            stitch_width=config.stitch_width,
            drop_path=config.recipe.drop_path,
            graph_seed=derive_seed("graph", str(config.prior), job.seed),
            compat=config.compat,
        )
    if config.init == "modules":
        _load_modules(job, student)
    if student_family(config.student).HAS_CODES:
        modules = job.modules("modules", range(config.student.modules)) if config.codes == "of_modules" else {}
        with forked_rng("codes", job.seed):
            student_family(config.student).start_codes(student, config.codes, modules)
    teacher = _teacher(job)
    taught = _taught_loss(job, student, teacher)

    def loss(images: Tensor, targets: Tensor, noise: torch.Generator) -> Loss:
        logits = student(images, **noise_arguments(config.student, noise))
        with torch.no_grad():
            given = None if teacher is None else teacher(images)
        if taught is not None:
            value = taught(logits, targets, given)
        elif given is None or config.distillation is None:
            value = labels_loss(logits, targets)
        else:
            value = distillation_loss(logits, targets, given, config.distillation, kl_norm(config))
        return value.with_regulariser(regularisation(config.student, student, config.compat))

    if teacher is not None:
        teacher.to(job.machine().device)
    beside = taught if taught is not None and taught.is_trained else None
    task = Task(
        trained=student if beside is None else Alongside(student, beside),
        network=student if beside is None else Alongside(student, beside),
        loss=loss,
        predict=student,
        diagnose=lambda images: scalars(diagnose(config.student, student, images)),
        no_weight_decay=no_weight_decay(student) if beside is None else names_alongside(no_weight_decay(student)),
        decay_all=config.compat.get("weight_decay_filter") == "all",
        late_schedule=late_schedule(config),
    )
    return Outcome(train(job, task, config.data, config.recipe), student.state_dict())


def _load_modules(job: Job[TrainStudent], student: nn.Module) -> None:
    config, only = job.config, job.config.load_modules
    modules = job.modules("modules", range(config.student.modules) if only is None else only)
    same_data = config.module_data == config.data
    student_family(config.student).transfer(student, modules, same_data=same_data, only=only, compat=config.compat)


def _teacher(job: Job[TrainStudent]) -> StagedViT | None:
    config = job.config
    if config.teacher is None:
        return None
    teacher = StagedViT(config.teacher, image_size=config.data.image_size, num_classes=config.data.classes)
    assemble(stages_of(job.weights("teacher")), teacher)
    return freeze(teacher)


def _taught_loss(job: Job[TrainStudent], student: nn.Module, teacher: StagedViT | None) -> TaughtLoss | None:
    config = job.config
    if config.objective is None:
        return None
    with forked_rng("init", "objective", job.seed):
        return TaughtLoss(
            config.objective,
            getattr(student, "stages", ()),
            () if teacher is None else teacher.stages,
            smoothing=config.recipe.augmentation.label_smoothing,
            kl_norm=kl_norm(config),
        )
