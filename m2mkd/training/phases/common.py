"""Common parts of the training phases: opening the data and starting the loop."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Literal

from numpy.typing import ArrayLike

from m2mkd.config.recipe import Recipe
from m2mkd.data.pack import Split, stratified_share
from m2mkd.data.stream import EvalBatch, TrainStream, eval_batches
from m2mkd.evaluation.released import Meter, twice_counted, whole_batches
from m2mkd.study.data import Data
from m2mkd.study.phase import EVAL_BATCH, Phase
from m2mkd.training.job import Job
from m2mkd.training.loop import Task, Trainee, fit

RELEASED_PROCESSES = 8
"""Number of processes of a published run, among which a recipe's global batch is divided."""
RELEASED_VAL_FACTOR = 1.5
"""Ratio of the images that the released trainer of NACs measures at a time to those it trains on (configs/nac_*_config.yml)."""


def train(job: Job[Any], task: Task, data: Data, recipe: Recipe) -> dict[str, float]:
    """Train on a data set's training split and measure on its validation split.

    The stream depends on data set, phase and seed alone, so that variants and modules see the same images.
    """
    return train_together([job], [task], data, recipe)[0]


def train_together(jobs: Sequence[Job[Any]], tasks: Sequence[Task], data: Data, recipe: Recipe) -> list[dict[str, float]]:
    """Train tasks of one phase and seed in lock step, each with the result of training it alone with `train`."""
    pack = jobs[0].pack(data)
    split = pack.split("train")
    share = stratified_share(split.labels, recipe.train_share, ("share", data.name))
    val = measured_subset(jobs[0].config, pack.split("val"), released_batch(recipe.batch_size))
    return train_on(jobs, tasks, recipe, split, share, val, data)


def train_on(
    jobs: Sequence[Job[Any]],
    tasks: Sequence[Task],
    recipe: Recipe,
    train: Split,
    indices: ArrayLike,
    val: Split,
    data: Data,
    classes: int | None = None,
) -> list[dict[str, float]]:
    """Train on one split and measure on another.

    Parameters
    ----------
    jobs, tasks, recipe
        Tasks to train, and the recipe; all jobs have the same phase and seed.
    train, indices
        Images and labels, and the indices of those that are used.
    val
        Split to measure on.
    data
        Data set that names the stream.
    classes
        Number of classes; None: all classes of the data set.
    """
    job, machine = jobs[0], jobs[0].machine()
    if job.config.compat.get("clip_in_fp32") == "ignored" and recipe.precision == "fp32":
        recipe = recipe.model_copy(update={"clip_norm": None})
    names = (data.name, job.config.phase, job.seed)
    ranks = machine.ranks.rank, machine.ranks.count

    def validation() -> Iterator[EvalBatch]:
        return eval_batches(val, data.image_size, EVAL_BATCH, *ranks, machine.workers)

    stream = TrainStream(train, indices, classes or data.classes, recipe, ("data", *names), machine.workers, machine.device, *ranks)
    trainees = [Trainee(task, job.work, job.title, job.usage) for job, task in zip(jobs, tasks, strict=True)]
    with closing(stream):
        return fit(trainees, recipe, stream, validation, names, machine)


def released_batch(global_batch: int | None) -> int:
    """Batch size of one process of the released code, for training and validation (ignoring accumulation).

    For an imported model the global batch is unknown; it is then that of the published fine-tuning, 1024.
    """
    return max(1, (global_batch or 1024) // RELEASED_PROCESSES)


def measured_subset(config: Phase, split: Split, batch: int) -> Split:
    """Images to measure: all of them, or, as released, those that fill batches of ``batch``."""
    return whole_batches(split, batch) if config.compat.get("val_remainder") == "dropped" else split


def meter(config: Phase, batch: float, processes: int) -> Meter | None:
    """Way to report accuracy: None for the mean over images, or, as released, one in which batches of ``batch`` images matter."""
    if config.compat.get("accuracy_meter") != "twice":
        return None
    return partial(twice_counted, batch=max(1, round(batch)), processes=processes)


def late_schedule(config: Phase) -> bool:
    """True if the learning rate lags one epoch behind, as released."""
    return config.compat.get("schedule_offset") == "late"


def kl_norm(config: Phase) -> Literal["batch", "numel"]:
    """Divisor of the KL term."""
    return "numel" if config.compat.get("kl_norm") == "numel" else "batch"
