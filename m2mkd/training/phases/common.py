"""What the training phases share: opening the data and starting the loop."""

from pathlib import Path
from typing import Any, Literal

from numpy.typing import ArrayLike

from m2mkd.config.phases import Data, Phase
from m2mkd.config.recipe import Recipe
from m2mkd.data.pack import Pack, Split, open_pack, stratified_share
from m2mkd.data.stream import TrainStream, eval_batches
from m2mkd.errors import InputError
from m2mkd.training.job import Job
from m2mkd.training.loop import Task, fit

EVAL_BATCH = 256
"""Images measured at a time; fixed, because noise in evaluation, where it is switched on, is drawn batch by batch."""


def open_data(data: Data) -> Pack:
    """The prepared set of that key, checked.

    Raises
    ------
    InputError
        If it is absent, damaged, or of other classes than the configuration says.
    """
    pack = open_pack(Path(data.folder))
    if len(pack.classes) != data.classes:
        raise InputError(
            f"{data.folder}: has {len(pack.classes)} classes, but config/datasets.yaml says {data.classes}; correct the latter"
        )
    return pack


def train(job: Job[Any], task: Task, data: Data, recipe: Recipe) -> dict[str, float]:
    """Train on a data set's training split and measure on its validation split.

    The stream depends on data set, phase and replicate alone, so that variants and modules see the same images.
    """
    pack = open_data(data)
    split = pack.split("train")
    share = stratified_share(split.labels, recipe.train_share, ("share", data.name))
    return train_on(job, task, recipe, split, share, pack.split("val"), data)


def train_on(
    job: Job[Any], task: Task, recipe: Recipe, train: Split, indices: ArrayLike, val: Split, data: Data, classes: int | None = None
) -> dict[str, float]:
    """Train on one split and measure on another.

    Parameters
    ----------
    job, task, recipe
        What is trained, and how.
    train, indices
        Images and labels, and which of them are used.
    val
        What is measured on.
    data
        Names the stream.
    classes
        Number of classes; none: all of the data set's.
    """
    machine = job.machine()
    names = (data.name, job.config.phase, job.replicate)
    stream = TrainStream(train, indices, classes or data.classes, recipe, ("data", *names), machine.workers, machine.device)
    return fit(task, recipe, stream, lambda: eval_batches(val, data.image_size, EVAL_BATCH), names, job.work, machine, job.title)


def late_schedule(config: Phase) -> bool:
    """Whether the learning rate lags one epoch behind, as released."""
    return config.compat.get("schedule_offset") == "late"


def kl_norm(config: Phase) -> Literal["batch", "numel"]:
    """What the KL term is divided by."""
    return "numel" if config.compat.get("kl_norm") == "numel" else "batch"
