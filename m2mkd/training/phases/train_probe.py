"""Few-shot linear probe: a new head on a frozen student (specification vmoe.md 5, FS; nac.md 13)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from m2mkd.config.registered_families import student_family
from m2mkd.data.fewshot import episode, episode_seed
from m2mkd.data.pack import Split
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.distill.transfer import load_strictly
from m2mkd.errors import InputError
from m2mkd.families.build import build_student, evaluation, noise_arguments
from m2mkd.seeds import derive_seed, forked_rng
from m2mkd.statistics import mean, summarise
from m2mkd.study.phase import CURVES
from m2mkd.study.phases import TrainProbe
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import late_schedule, measured_subset, meter, train_on

PROBE_PROCESSES = 4
"""Number of processes among which the released trainer of NACs divides an episode (supervised.py:206-207)."""


def run(job: Job[TrainProbe]) -> Outcome:
    """Train a head on each of the seed's episodes, and measure on their validation images; the first head is kept."""
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
    load_strictly(student, job.weights("student"), "student")
    student.requires_grad_(False)
    pack = job.pack(config.data)
    train, val = pack.split("train"), pack.split("val")
    first = _episode(job, student, train, val, 0)
    if config.episodes == 1:
        return first
    others = [_episode(_work_of(job, number), student, train, val, number).metrics for number in range(1, config.episodes)]
    return replace(first, metrics=over_episodes([first.metrics, *others]))


def over_episodes(measured: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means of the measurements over several episodes; and under ``episodes`` the accuracy of each, with the 95 % interval.

    This interval (Student's t) is about the drawn classes and images; the one over seeds is about training.
    """
    values = [one["val_top1"] for one in measured]
    summary = summarise(values)
    spread = {"count": summary.n, "std": summary.std, "half_width": summary.half_width, "val_top1": values}
    return {name: mean(one[name] for one in measured) for name in measured[0]} | {"episodes": spread}


def _work_of(job: Job[TrainProbe], number: int) -> Job[TrainProbe]:
    """Job with its own work folder for one of the later episodes; the published curves are those of the first."""
    return replace(job, work=job.work / f"episode-{number}", title=f"{job.title}, episode {number + 1}")


def _episode(job: Job[TrainProbe], student: nn.Module, train: Split, val: Split, number: int) -> Outcome:
    """Train a new head on one episode."""
    config = job.config
    with forked_rng("init", "probe", job.seed):
        head = student_family(config.student).replace_head(student, config.way)

    def loss(images: Tensor, targets: Tensor, noise: torch.Generator) -> Tensor:
        return soft_cross_entropy(student(images, **noise_arguments(config.student, noise)), targets)

    from_train = config.compat.get("probe_val_split") == "train"
    seed = episode_seed(job.seed, number)
    drawn = episode(train, val, config.way, config.shots, seed, "train" if from_train else "test")
    shots = drawn.subset(train, drawn.train)
    val = drawn.subset(train if from_train else val, drawn.val)
    # The whole episode is one batch, as published.
    recipe = config.recipe.model_copy(update={"batch_size": len(shots)})
    # If the features are permanently frozen, only the head switches between training and evaluation.
    frozen = config.compat.get("probe_backbone") == "eval"
    if frozen:
        student.to(job.machine().device).eval()
    task = Task(
        trained=head,
        network=head if frozen else student,
        loss=loss,
        predict=student,
        predictor=lambda: evaluation(student, config.student, config.compat, derive_seed("evaluation noise", job.seed)),
        meter=meter(config, len(val) / PROBE_PROCESSES, PROBE_PROCESSES),
        late_schedule=late_schedule(config),
    )
    val = measured_subset(config, val, len(shots))
    (measured,) = train_on([job], [task], recipe, shots, range(len(shots)), val, config.data, config.way)
    if config.compat.get("probe_report") == "best":
        lines = [json.loads(line) for line in (job.work / CURVES).read_text().splitlines()]
        measured["val_top1"] = max(line["val_top1"] for line in lines if "val_top1" in line)
    return Outcome(measured, head.state_dict())
