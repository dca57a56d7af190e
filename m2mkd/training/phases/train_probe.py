"""Few-shot linear probe: a new head on a frozen student (specification vmoe.md 5, FS; nac.md 13)."""

import json

import torch
from torch import Tensor

from m2mkd.config.phases import CURVES, TrainProbe
from m2mkd.config.seeds import derive_seed, forked_rng
from m2mkd.data.fewshot import episode
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.distill.transfer import load_strictly
from m2mkd.errors import InputError
from m2mkd.models.build import build_student, evaluation, noise_arguments, replace_head
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import late_schedule, open_data, train_on
from m2mkd.training.weights import load_weights


def run(job: Job[TrainProbe]) -> Outcome:
    """Train the head on one episode, drawn by the replicate's number, and measure on its validation images."""
    config = job.config
    if config.data.image_size != config.student_data.image_size:
        raise InputError(
            f"{job.title}: few-shot images are {config.data.image_size} px, but the student saw {config.student_data.image_size} px; "
            "give the probe's data that size"
        )
    student = build_student(
        config.student,
        image_size=config.student_data.image_size,
        num_classes=config.student_data.classes,
        prior=None,  # the signatures come with the weights
        stitch_width=config.stitch_width,
        drop_path=config.recipe.drop_path,
        compat=config.compat,
    )
    load_strictly(student, load_weights(job.upstream["student"][0]), "student")
    student.requires_grad_(False)
    with forked_rng("init", "probe", job.replicate):
        head = replace_head(student, config.way)

    def loss(images: Tensor, targets: Tensor, noise: torch.Generator) -> Tensor:
        return soft_cross_entropy(student(images, **noise_arguments(config.student, noise)), targets)

    pack = open_data(config.data)
    train, val = pack.split("train"), pack.split("val")
    from_train = config.compat.get("probe_val_split") == "train"
    drawn = episode(train, val, config.way, config.shots, job.replicate + 1, "train" if from_train else "test")
    shots = drawn.subset(train, drawn.train)
    # The whole episode is one batch, as published.
    recipe = config.recipe.model_copy(update={"batch_size": len(shots)})
    task = Task(
        trained=head,
        network=student,
        loss=loss,
        predict=evaluation(student, config.student, config.compat, derive_seed("evaluation noise", job.replicate)),
        late_schedule=late_schedule(config),
    )
    measured = train_on(
        job, task, recipe, shots, range(len(shots)), drawn.subset(train if from_train else val, drawn.val), config.data, config.way
    )
    if config.compat.get("probe_report") == "best":
        lines = [json.loads(line) for line in (job.work / CURVES).read_text().splitlines()]
        measured["val_top1"] = max(line["val_top1"] for line in lines if "val_top1" in line)
    return Outcome(measured, head.state_dict())
