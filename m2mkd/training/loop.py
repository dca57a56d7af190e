"""Training loop, shared by all phases."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.recipe import Recipe
from m2mkd.data.detection_stream import DetectionBatch
from m2mkd.data.stream import Batch
from m2mkd.errors import Interrupted
from m2mkd.evaluation.accuracy import measure_together
from m2mkd.evaluation.diagnostics import IMAGES
from m2mkd.evaluation.released import metered
from m2mkd.ranks import Ranks
from m2mkd.signals import SignalGuard
from m2mkd.training.device import computing_in
from m2mkd.training.machine import Machine
from m2mkd.training.progress import TrainingProgress
from m2mkd.training.task import Batches, Task, Trainee
from m2mkd.training.update import Training

__all__ = ["Task", "Trainee", "fit"]


def fit(
    trainees: Sequence[Trainee],
    recipe: Recipe | DetectionRecipe,
    stream: Batches,
    validation: Callable[[], Iterable[Any]],
    names: tuple[str | int, ...],
    machine: Machine,
) -> list[dict[str, float]]:
    """Train, resuming each task from the last checkpoint in its folder.

    Several tasks train in lock step: every batch is made once and passes through the tasks in their order. Each task
    has its own optimiser, schedule, noise and checkpoints, and reaches the same bits on a CPU as it would alone.

    With several ranks, each calls this with its own part of the stream and of the validation set; all get the same result, and the
    first one writes.

    Parameters
    ----------
    trainees
        Tasks to train. They may share frozen parts, but nothing that trains.
    recipe
        Optimiser, schedule, precision and length.
    stream
        Training batches, a function of epoch and step.
    validation
        Gives all validation batches, in order.
    names
        Name of the stream of model noise (drop path, code noise, sampled edges), the same for every task.
    machine
        Device, ranks and data workers.

    Returns
    -------
    list of dict
        Last measurements of each task: ``loss`` (mean over the last epoch) and ``val_loss``, ``val_top1``, ``val_top5``, or what the
        task measures.

    Raises
    ------
    InputError
        If more losses or gradients are not finite than the recipe allows.
    Interrupted
        After a signal, once the state is saved.
    """
    steps, ranks = stream.steps_per_epoch, machine.ranks
    epochs = recipe.passes(steps)
    shown = TrainingProgress(recipe, steps, quiet=not ranks.is_main)
    trainings = [Training(trainee, recipe, steps, names, machine, shown.say) for trainee in trainees]
    with shown.of({training.title: training.progress.updates for training in trainings}), SignalGuard() as caught, ExitStack() as writers:
        for training in trainings:
            writers.callback(training.checkpoints.close)
        for epoch in range(min(training.progress.epochs for training in trainings), epochs):
            # An interruption may have come between the checkpoints of two tasks; those that are ahead wait.
            present = [training for training in trainings if training.progress.epochs == epoch]
            for training in present:
                training.begin_epoch()
            first = min(training.progress.updates for training in present) - epoch * steps
            batches: Iterator[Batch | DetectionBatch] = stream.epoch(epoch, first)
            for step, batch in enumerate(batches, first):
                there = batch.to(machine.device)
                for training in present:
                    if training.progress.updates == epoch * steps + step:
                        training.step(epoch, step, there)
                        shown.step(training.title, training.progress)
                        if training.checkpoints.due(training.progress.updates):
                            training.save()
                _leave_if_asked(caught, present, ranks)
            last = epoch + 1 == epochs
            measured = None
            if last or (epoch + 1) % recipe.eval_every == 0:
                # Ranks agree only after the same update, so with several ranks each finishes the epoch.
                measuring = validation if ranks.count > 1 else lambda: _until_asked(caught, validation())
                try:
                    measured = _validate(present, recipe, measuring, machine)
                except _AskedError:
                    _leave_if_asked(caught, present, ranks)
            for index, training in enumerate(present):
                shown.epoch(training.title, epoch, training.end_epoch(measured[index] if measured else {}, last=last))
            _leave_if_asked(caught, present, ranks)
    for training in trainings:
        training.end()
    return [training.measurements for training in trainings]


class _AskedError(Exception):
    """A signal came during a measurement, which must be repeated."""


def _until_asked(caught: SignalGuard, batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        if caught.signal is not None:
            raise _AskedError
        yield batch


def _leave_if_asked(caught: SignalGuard, trainings: Sequence[Training], ranks: Ranks) -> None:
    """After a signal to any rank, save and exit, on all ranks after the same update."""
    asked = torch.tensor(int(caught.signal is not None))
    if ranks.all_reduce(asked).item():
        for training in trainings:
            training.save(wait=True)
        name = caught.signal.name if caught.signal else "a signal to another rank"
        raise Interrupted(f"{name}: saved after {trainings[0].progress.updates} updates; the same command resumes from there")


def _validate(
    trainings: Sequence[Training], recipe: Recipe | DetectionRecipe, validation: Callable[[], Iterable[Any]], machine: Machine
) -> list[dict[str, float]]:
    with ExitStack() as averaged:
        for training in trainings:
            training.task.network.eval()
            averaged.enter_context(training.averaged())
        if all(training.task.measure for training in trainings):
            return [training.task.measure(validation(), machine.ranks) for training in trainings if training.task.measure]
        with computing_in(recipe.precision, machine.device):
            predictors = [training.task.predictor() if training.task.predictor else training.task.predict for training in trainings]
            measured = measure_together([each for each in predictors if each], validation(), machine.device, ranks=machine.ranks)
        for training, accuracy in zip(trainings, measured, strict=True):
            training.watch(accuracy)
        accuracies = [metered(accuracy, training.task.meter) for accuracy, training in zip(measured, trainings, strict=True)]
        lines = [{"val_loss": accuracy.loss, "val_top1": accuracy.top1, "val_top5": accuracy.top5} for accuracy in accuracies]
        if machine.ranks.is_main:
            for training, line in zip(trainings, lines, strict=True):
                if training.task.diagnose is not None:
                    line.update(training.task.diagnose(next(iter(validation())).images[:IMAGES].to(machine.device)))
    return lines
