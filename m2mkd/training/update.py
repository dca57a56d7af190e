"""Trainee in the loop: its optimiser, schedule, log and checkpoints, and the update that a batch makes."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.recipe import Recipe
from m2mkd.data.detection_stream import DetectionBatch
from m2mkd.data.stream import Batch
from m2mkd.distill.losses import Loss
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import Accuracy
from m2mkd.files import write_json
from m2mkd.seeds import derive_seed, forked_rng
from m2mkd.study.phase import CURVES
from m2mkd.training.average import Average
from m2mkd.training.checkpoint import Checkpoints
from m2mkd.training.curves import Curves
from m2mkd.training.device import computing_in
from m2mkd.training.guards import ChanceWatch, ExpertWatch, LossWatch
from m2mkd.training.machine import Machine
from m2mkd.training.optim import LearningRate, build_optimizer
from m2mkd.training.shares import micro_batches, shared_loss
from m2mkd.training.task import Trainee

NONFINITE = "nonfinite.json"
"""Name of the file that describes a batch whose loss or gradient was not finite."""


@dataclass
class Progress:
    """Progress of a training: everything except tensors that the next update depends on."""

    updates: int = 0
    """Completed batches, over all epochs."""
    epochs: int = 0
    """Epochs that are measured and logged."""
    total: float = 0.0
    """Sum of the losses of the current epoch."""
    counted: int = 0
    """Number of these losses."""
    parts: dict[str, float] = field(default_factory=dict)
    """Sum of each part of the losses, if there are several."""
    lr: float = 0.0
    """Learning rate of the last update."""
    skipped: int = 0
    """Batches skipped because their loss or gradient was not finite."""
    log_bytes: int = 0
    """Size of the log in bytes; anything after it is ignored."""
    best: float = -1.0
    """Largest ``val_top1`` so far."""
    last: dict[str, float] = field(default_factory=dict)
    """Last line of the log."""
    spent: dict[str, float] = field(default_factory=dict)
    """Time and energy until here, over all sessions; nothing depends on it."""


class Training:
    """Trainee with its optimiser, schedule, log and checkpoints.

    Parameters
    ----------
    trainee, recipe
        Task to train, and its recipe.
    steps_per_epoch
        Batches per epoch.
    names
        Name of the stream of model noise.
    machine
        Device and processes.
    say
        Function that reports unusual events.
    """

    def __init__(
        self,
        trainee: Trainee,
        recipe: Recipe | DetectionRecipe,
        steps_per_epoch: int,
        names: tuple[str | int, ...],
        machine: Machine,
        say: Callable[[str], object],
    ):
        task = trainee.task
        self.task, self.folder, self.title, self.usage = task, trainee.folder, trainee.title, trainee.usage
        self.recipe, self.steps_per_epoch, self.names, self.say = recipe, steps_per_epoch, names, say
        self.ranks, self.device = machine.ranks, machine.device
        self.micro_batches = machine.accumulation(recipe.batch_size, recipe.TOGETHER)
        task.network.to(self.device)
        self.optimizer = build_optimizer(
            task.trained,
            recipe,
            task.no_weight_decay,
            decay_all=task.decay_all,
            decay_scalars=task.decay_scalars,
            decay_vectors=task.decay_vectors,
            rate_factors=task.rate_factors,
        )
        self.rate = LearningRate(self.optimizer, recipe, steps_per_epoch, task.late_schedule, task.schedule_slack)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.average = None if recipe.ema_decay is None else Average(task.trained, recipe.ema_decay)
        self.curves = Curves(self.folder / CURVES)
        self.checkpoints = Checkpoints(self.folder, machine.checkpoints, say, self.ranks)
        self.progress = self._restored()
        if machine.compiled:
            task.network.compile()
        self.loss = task.loss if self.ranks.count == 1 else shared_loss(task)
        self.losses, self.experts, self.chance = LossWatch(), ExpertWatch(task.trained), ChanceWatch()

    @property
    def measurements(self) -> dict[str, float]:
        """Last measurements, without those of diagnosis and without the parts of the loss."""
        others = {"epoch", "step", "lr", *self.progress.parts}
        return {name: value for name, value in self.progress.last.items() if name not in others and "/" not in name}

    def _restored(self) -> Progress:
        state = self.checkpoints.restore()
        progress = Progress()
        if state is not None:
            self.task.trained.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            progress = Progress(**state["progress"])
            self.usage.go_on_from(progress.spent)
        if self.ranks.is_main:
            self.curves.cut(progress.log_bytes)
        return progress

    def begin_epoch(self) -> None:
        """Prepare for the batches of an epoch, from its start or later."""
        self.task.network.train()
        if self.progress.updates == self.progress.epochs * self.steps_per_epoch:
            self.progress.total, self.progress.counted, self.progress.parts = 0.0, 0, {}
            self.experts.begin()

    def step(self, epoch: int, step: int, batch: Batch | DetectionBatch) -> None:
        """Make one update from this rank's share of a batch, or none if its loss or gradient is not finite and that is allowed.

        Raises
        ------
        InputError
            If a non-finite loss or gradient is not allowed.
        """
        self.progress.lr = self.rate.set(epoch, step)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [self._backward(epoch, step, number, few) for number, few in enumerate(micro_batches(batch, self.micro_batches))]
        sums = self.ranks.all_reduce(torch.stack([sum(values) for values in zip(*(part.values() for part in parts), strict=True)]).cpu())
        means = [total / (self.micro_batches * self.ranks.count) for total in sums.tolist()]
        value = means[0]
        self.scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        self.progress.updates += 1
        # The scaler skips updates whose gradient is too large for half precision, and scales the next ones down. A value that is not
        # finite without any scaling will never be finite.
        whole = math.isfinite(norm) or (self.scaler.is_enabled() and self.scaler.get_scale() > 1)
        if not (math.isfinite(value) and whole):
            self._leave_out(epoch, step, batch, value, norm)
            return
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        self.progress.total += value
        self.progress.counted += 1
        if len(means) > 2:
            for name, mean in zip(parts[0], means, strict=True):
                if name != "loss":
                    self.progress.parts[name] = self.progress.parts.get(name, 0.0) + mean
        usual = self.losses.leaps_from(value)
        if usual is not None:
            self.say(f"{self.title}: the loss spikes to {value:.4g} from {usual:.4g} in epoch {epoch + 1}, step {step + 1}")

    def _backward(self, epoch: int, step: int, number: int, few: Batch | DetectionBatch) -> dict[str, Tensor]:
        """Add the gradient of one micro-batch of an accumulated batch; return its loss and the parts of the loss."""
        # A micro-batch has the noise of its position in the batch, whichever rank computes it.
        position = () if self.micro_batches * self.ranks.count == 1 else (self.ranks.rank * self.micro_batches + number,)
        noise = torch.Generator(self.device).manual_seed(derive_seed(*self.names, "noise", epoch, step, *position))
        waits = isinstance(self.loss, DistributedDataParallel) and number + 1 < self.micro_batches
        with self.loss.no_sync() if waits else nullcontext():  # type: ignore[union-attr]
            # timm's drop path draws from the global generator.
            with forked_rng(*self.names, "drop path", epoch, step, *position), computing_in(self.recipe.precision, self.device):
                found = self.loss(few.images, few.targets, noise)
            loss, parts = found if isinstance(found, Loss) else (found, {})
            self.scaler.scale(loss if self.micro_batches == 1 else loss / self.micro_batches).backward()
        self.experts.saw()
        return {name: value.detach().double() for name, value in {"loss": loss, **parts}.items()}

    def _gradient_norm(self) -> float:
        """Norm of the whole gradient, which is clipped if the recipe asks for it."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.clip_norm, norm)
        return norm.item()

    def _leave_out(self, epoch: int, step: int, batch: Batch | DetectionBatch, loss: float, norm: float) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        self.progress.skipped += 1
        ids = [number for share in self.ranks.all_gather(batch.ids.tolist()) for number in share]
        path = self.folder / NONFINITE
        if self.ranks.is_main:
            write_json(path, {"epoch": epoch + 1, "step": step + 1, "loss": str(loss), "gradient_norm": str(norm), "samples": ids})
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
        where = f"{self.title}: {what} in epoch {epoch + 1}, step {step + 1}"
        if self.progress.skipped > self.recipe.skip_nonfinite:
            raise InputError(f"{where} (samples in {path}); lower the recipe's lr, set clip_norm, or allow some with skip_nonfinite")
        self.say(f"{where} (samples in {path}); left out, {self.progress.skipped} of at most {self.recipe.skip_nonfinite}")

    def watch(self, accuracy: Accuracy) -> None:
        """Report if the network stays at chance."""
        epoch = self.progress.epochs + 1
        if (since := self.chance.stays_since(epoch, accuracy.top1, accuracy.count, len(accuracy.labels.unique()))) is not None:
            self.say(f"{self.title}: val_top1 is at chance since epoch {since}, now {100 * accuracy.top1:.1f} % in epoch {epoch}")

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the network has the weights that are measured."""
        return nullcontext() if self.average is None else self.average.in_place()

    def end(self) -> None:
        """Leave the weights to publish in the network after the last epoch."""
        if self.average is not None:
            self.average.publish()

    def end_epoch(self, measured: dict[str, float], *, last: bool) -> dict[str, float]:
        """Log the epoch, save a checkpoint if due, and return the logged values.

        Raises
        ------
        InputError
            If a measurement is not finite.
        """
        progress = self.progress
        for name, value in measured.items():
            if not math.isfinite(value):
                where = f"{self.title}: {name} is {value} after epoch {progress.epochs + 1}"
                raise InputError(f"{where}, because the weights have grown too large; lower the recipe's lr, or set clip_norm")
        for expert in self.experts.idle(self.ranks):
            self.say(f"{self.title}: {expert} received no tokens in epoch {progress.epochs + 1}")
        progress.epochs += 1
        progress.last = {
            "epoch": progress.epochs,
            "step": progress.updates,
            "lr": progress.lr,
            "loss": progress.total / max(1, progress.counted),
            **{name: total / max(1, progress.counted) for name, total in progress.parts.items()},
            **({"skipped": progress.skipped} if progress.skipped else {}),
            **measured,
        }
        if self.ranks.is_main:
            progress.log_bytes = self.curves.append(progress.last)
        best = measured.get("val_top1", -1.0) > progress.best
        if best:
            progress.best = measured["val_top1"]
        if best or last or self.checkpoints.due(progress.updates):
            self.save(best=best, wait=last)
        return progress.last

    def save(self, *, best: bool = False, wait: bool = False) -> None:
        """Write a checkpoint, in the background unless ``wait`` is true."""
        parts: dict[str, Any] = {"module": self.task.trained, "optimizer": self.optimizer, "scaler": self.scaler}
        if self.average is not None:
            parts["average"] = self.average
        state = {name: part.state_dict() for name, part in parts.items()}
        self.progress.spent = self.usage.spent()
        self.checkpoints.save(self.progress.updates, state | {"progress": asdict(self.progress)}, best=best)
        if wait:
            self.checkpoints.wait()
