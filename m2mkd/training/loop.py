"""The one training loop, which every phase uses."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2mkd.config.recipe import Recipe
from m2mkd.config.seeds import derive_seed, forked_rng
from m2mkd.data.stream import Batch, EvalBatch, TrainStream
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import measure_together
from m2mkd.evaluation.released import Meter, metered
from m2mkd.training import checkpoint
from m2mkd.training.curves import Curves
from m2mkd.training.device import computing_in
from m2mkd.training.machine import Machine
from m2mkd.training.optim import LearningRate, build_optimizer
from m2mkd.training.progress import TrainingProgress

CHECKPOINT_SECONDS = 20.0
"""Time between two checkpoints of one training."""
DIAGNOSED = 32
"""Validation images, the first ones, on which a network's use of its parts is measured."""


@dataclass(frozen=True)
class Task:
    """What a phase gives the loop: the network that trains, its loss, and its predictions."""

    trained: nn.Module
    """Its parameters that require a gradient are optimised; all of it is saved."""
    network: nn.Module
    """Everything that switches between training and evaluation mode; contains ``trained``."""
    loss: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    """From images (B, 3, H, W), soft targets (B, C) and the step's source of model noise to the mean loss."""
    predict: Callable[[Tensor], Tensor]
    """From images to logits (B, C), without noise."""
    spared: Collection[str] = ()
    """Parameters without weight decay."""
    meter: Meter | None = None
    """How the accuracy of single images becomes ``val_top1``; none: as their mean."""
    diagnose: Callable[[Tensor], dict[str, float]] | None = None
    """From a few validation images to numbers, named with a slash, on how the network uses its parts; none: nothing is looked at."""
    decay_all: bool = False
    decay_scalars: bool = False
    late_schedule: bool = False


@dataclass(frozen=True)
class Trainee:
    """A task, and where its training is kept."""

    task: Task
    folder: Path
    """Work folder: the checkpoint, and ``metrics.jsonl``."""
    title: str
    """Shown with the progress."""


def fit(
    trainees: Sequence[Trainee],
    recipe: Recipe,
    stream: TrainStream,
    validation: Callable[[], Iterable[EvalBatch]],
    names: tuple[str | int, ...],
    machine: Machine,
) -> list[dict[str, float]]:
    """Train, resuming each from the last checkpoint in its folder.

    Several tasks train in lock step: every batch is made once and goes through one after the other, in their order. Each
    has its own optimiser, schedule, noise and checkpoint, and comes to the same bits on a CPU as it would alone.

    Parameters
    ----------
    trainees
        What is trained and how its loss is computed. They may share frozen parts, but nothing that trains.
    recipe
        Optimiser, schedule, precision and number of epochs.
    stream
        Training batches, a function of epoch and step.
    validation
        Gives all validation batches, in order.
    names
        Name of the stream of model noise (drop path, code noise, sampled edges), the same for every task.
    machine
        Device and data workers.

    Returns
    -------
    list of dict
        The last measurements of each: ``loss`` (mean over the last epoch), ``val_loss``, ``val_top1``, ``val_top5``.

    Raises
    ------
    InputError
        If a loss is not finite.
    """
    device, steps = machine.device, stream.steps_per_epoch
    trainings = [_Training(trainee, recipe, steps, names, device) for trainee in trainees]
    with TrainingProgress(recipe.epochs, {training.title: training.epochs_done for training in trainings}) as shown:
        for epoch in range(min(training.epochs_done for training in trainings), recipe.epochs):
            # An interruption may have fallen between two checkpoints; who is ahead waits.
            present = [training for training in trainings if training.epochs_done == epoch]
            for training in present:
                training.begin_epoch()
            for step, batch in enumerate(stream.epoch(epoch)):
                there = batch._replace(images=batch.images.to(device), targets=batch.targets.to(device))
                for training in present:
                    training.step(epoch, step, there)
            last = epoch + 1 == recipe.epochs
            measured = _validate(present, recipe, validation, device) if last or (epoch + 1) % recipe.eval_every == 0 else None
            for place, training in enumerate(present):
                shown.epoch(training.title, epoch, training.end_epoch(measured[place] if measured else {}, last=last))
    return [training.measurements for training in trainings]


class _Training:
    """One trainee with its optimiser, schedule, log and checkpoint."""

    def __init__(self, trainee: Trainee, recipe: Recipe, steps_per_epoch: int, names: tuple[str | int, ...], device: torch.device):
        task = trainee.task
        self.task, self.folder, self.title = task, trainee.folder, trainee.title
        self.recipe, self.steps_per_epoch, self.names, self.device = recipe, steps_per_epoch, names, device
        task.network.to(device)
        self.optimizer = build_optimizer(task.trained, recipe, task.spared, decay_all=task.decay_all, decay_scalars=task.decay_scalars)
        self.rate = LearningRate(self.optimizer, recipe, steps_per_epoch, task.late_schedule)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.curves = Curves(self.folder / "metrics.jsonl")
        restored = checkpoint.load(self.folder, task.trained, self.optimizer, self.scaler, device)
        self.progress: dict[str, Any] = restored or {"epochs": 0, "log_bytes": 0, "last": {}}
        self.curves.cut(self.progress["log_bytes"])
        self.saved = time.monotonic()
        self.total, self.lr = torch.zeros((), dtype=torch.float64), 0.0

    @property
    def epochs_done(self) -> int:
        return self.progress["epochs"]

    @property
    def measurements(self) -> dict[str, float]:
        return {name: value for name, value in self.progress["last"].items() if name not in ("epoch", "step", "lr") and "/" not in name}

    def begin_epoch(self) -> None:
        self.task.network.train()
        self.total, self.lr = torch.zeros((), dtype=torch.float64), 0.0

    def step(self, epoch: int, step: int, batch: Batch) -> None:
        """One update."""
        self.lr = self.rate.set(epoch, step)
        noise = torch.Generator(self.device).manual_seed(derive_seed(*self.names, "noise", epoch, step))
        # timm's drop path draws from the global generator.
        with forked_rng(*self.names, "drop path", epoch, step), computing_in(self.recipe.precision, self.device):
            loss = self.task.loss(batch.images, batch.targets, noise)
        value = loss.detach().double().cpu()
        if not math.isfinite(value):
            raise InputError(
                f"{self.title}: the loss is {value.item()} in epoch {epoch + 1}, step {step + 1} (samples {batch.ids[:8].tolist()}); "
                "lower the recipe's lr or set clip_norm"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.total += value

    def end_epoch(self, measured: dict[str, float], *, last: bool) -> dict[str, float]:
        """Log the epoch, save now and then, and give back what was logged."""
        epochs = self.epochs_done + 1
        line: dict[str, float] = {
            "epoch": epochs,
            "step": epochs * self.steps_per_epoch,
            "lr": self.lr,
            "loss": (self.total / self.steps_per_epoch).item(),
            **measured,
        }
        self.progress = {"epochs": epochs, "log_bytes": self.curves.append(line), "last": line}
        if last or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            checkpoint.save(self.folder, self.task.trained, self.optimizer, self.scaler, self.progress)
            self.saved = time.monotonic()
        return line


def _validate(
    trainings: Sequence[_Training], recipe: Recipe, validation: Callable[[], Iterable[EvalBatch]], device: torch.device
) -> list[dict[str, float]]:
    for training in trainings:
        training.task.network.eval()
    with computing_in(recipe.precision, device):
        measured = measure_together([training.task.predict for training in trainings], validation(), device)
    accuracies = [metered(accuracy, training.task.meter) for accuracy, training in zip(measured, trainings, strict=True)]
    lines = [{"val_loss": accuracy.loss, "val_top1": accuracy.top1, "val_top5": accuracy.top5} for accuracy in accuracies]
    for training, line in zip(trainings, lines, strict=True):
        if training.task.diagnose is not None:
            line.update(training.task.diagnose(next(iter(validation())).images[:DIAGNOSED].to(device)))
    return lines
