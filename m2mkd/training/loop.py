"""The one training loop, which every phase uses."""

import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from m2mkd.config.recipe import Recipe
from m2mkd.config.seeds import derive_seed, forked_rng
from m2mkd.data.stream import EvalBatch, TrainStream
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import Accuracy, measure
from m2mkd.training import checkpoint
from m2mkd.training.curves import Curves
from m2mkd.training.device import computing_in
from m2mkd.training.machine import Machine
from m2mkd.training.optim import LearningRate, build_optimizer
from m2mkd.training.progress import TrainingProgress

CHECKPOINT_SECONDS = 20.0
"""Time between two checkpoints of one training."""


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
    decay_all: bool = False
    decay_scalars: bool = False
    late_schedule: bool = False


def fit(
    task: Task,
    recipe: Recipe,
    stream: TrainStream,
    validation: Callable[[], Iterable[EvalBatch]],
    names: tuple[str | int, ...],
    folder: Path,
    machine: Machine,
    title: str,
) -> dict[str, float]:
    """Train, resuming from the last checkpoint in ``folder``.

    Parameters
    ----------
    task
        What is trained and how its loss is computed.
    recipe
        Optimiser, schedule, precision and number of epochs.
    stream
        Training batches, a function of epoch and step.
    validation
        Gives all validation batches, in order.
    names
        Name of the stream of model noise (drop path, code noise, sampled edges).
    folder
        Work folder: the checkpoint, and ``metrics.jsonl``.
    machine
        Device and data workers.
    title
        Shown with the progress.

    Returns
    -------
    dict
        The last measurements: ``loss`` (mean over the last epoch), ``val_loss``, ``val_top1``, ``val_top5``.

    Raises
    ------
    InputError
        If the loss is not finite.
    """
    device = machine.device
    task.network.to(device)
    optimizer = build_optimizer(task.trained, recipe, task.spared, decay_all=task.decay_all, decay_scalars=task.decay_scalars)
    rate = LearningRate(optimizer, recipe, stream.steps_per_epoch, task.late_schedule)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    curves = Curves(folder / "metrics.jsonl")
    progress = checkpoint.load(folder, task.trained, optimizer, scaler, device) or {"epochs": 0, "log_bytes": 0, "last": {}}
    curves.cut(progress["log_bytes"])
    saved = time.monotonic()
    with TrainingProgress(title, recipe.epochs, progress["epochs"]) as shown:
        for epoch in range(progress["epochs"], recipe.epochs):
            task.network.train()
            total, lr = torch.zeros((), dtype=torch.float64), 0.0
            for step, batch in enumerate(stream.epoch(epoch)):
                lr = rate.set(epoch, step)
                noise = torch.Generator(device).manual_seed(derive_seed(*names, "noise", epoch, step))
                # timm's drop path draws from the global generator.
                with forked_rng(*names, "drop path", epoch, step), computing_in(recipe.precision, device):
                    loss = task.loss(batch.images.to(device), batch.targets.to(device), noise)
                value = loss.detach().double().cpu()
                if not math.isfinite(value):
                    raise InputError(
                        f"{title}: the loss is {value.item()} in epoch {epoch + 1}, step {step + 1} (samples {batch.ids[:8].tolist()}); "
                        "lower the recipe's lr or set clip_norm"
                    )
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if recipe.clip_norm is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
                scaler.step(optimizer)
                scaler.update()
                total += value
            line: dict[str, float] = {
                "epoch": epoch + 1,
                "step": (epoch + 1) * stream.steps_per_epoch,
                "lr": lr,
                "loss": (total / stream.steps_per_epoch).item(),
            }
            last = epoch + 1 == recipe.epochs
            if last or (epoch + 1) % recipe.eval_every == 0:
                line |= _validate(task, recipe, validation(), device)
            shown.epoch(epoch, line)
            progress = {"epochs": epoch + 1, "log_bytes": curves.append(line), "last": line}
            if last or time.monotonic() - saved > CHECKPOINT_SECONDS:
                checkpoint.save(folder, task.trained, optimizer, scaler, progress)
                saved = time.monotonic()
    return {name: value for name, value in progress["last"].items() if name not in ("epoch", "step", "lr")}


def _validate(task: Task, recipe: Recipe, batches: Iterable[EvalBatch], device: torch.device) -> dict[str, float]:
    task.network.eval()
    with computing_in(recipe.precision, device):
        accuracy: Accuracy = measure(task.predict, batches, device)
    return {"val_loss": accuracy.loss, "val_top1": accuracy.top1, "val_top5": accuracy.top5}
