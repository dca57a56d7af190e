"""Optimiser and learning rate of a recipe, based on timm."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.recipe import Recipe
from m2mkd.errors import InputError


def build_optimizer(
    module: nn.Module,
    recipe: Recipe | DetectionRecipe,
    no_weight_decay: Collection[str] = (),
    *,
    decay_all: bool = False,
    decay_scalars: bool = False,
    decay_vectors: bool = False,
    rate_factors: Mapping[str, float] = MappingProxyType({}),
) -> Optimizer:
    """Optimiser of all parameters of ``module`` that require a gradient.

    Parameters
    ----------
    module
        Module to train.
    recipe
        Kind, peak learning rate and weight decay.
    no_weight_decay
        Names of parameters without weight decay, in addition to biases and tensors with fewer than two axes.
    decay_all
        Decay every parameter, biases and norms too.
    decay_scalars
        Decay parameters without axes, such as gains.
    decay_vectors
        Decay biases and tensors with fewer than two axes, unless ``no_weight_decay`` names them.
    rate_factors
        Factor on the learning rate of each parameter, by name; 1 for those not named.
    """

    def decays(name: str, parameter: nn.Parameter) -> bool:
        matrix = parameter.ndim > 1 or (decay_scalars and parameter.ndim == 0)
        return decay_all or ((decay_vectors or (matrix and not name.endswith(".bias"))) and name not in no_weight_decay)

    # timm's param_groups_weight_decay groups them alike, but cannot let scalars decay, and without decay it makes a single group, whose
    # other order changes the last bits of the gradient norm.
    groups: dict[tuple[bool, float], dict[str, Any]] = {
        (False, 1.0): {"params": [], "weight_decay": 0.0},
        (True, 1.0): {"params": [], "weight_decay": recipe.weight_decay},
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decayed, factor = decays(name, parameter), rate_factors.get(name, 1.0)
            one = {"params": [], "weight_decay": decayed * recipe.weight_decay, "lr_scale": factor}
            groups.setdefault((decayed, factor), one)["params"].append(parameter)
    optimizer = {"adamw": "adamw", "sgd": "nesterov"}[recipe.optimizer]
    used = [group for group in groups.values() if group["params"]]
    # Foreach over all tensors also on a CPU, where torch would loop over them: the same bits in two thirds of the time.
    return create_optimizer_v2(used, opt=optimizer, lr=recipe.peak_lr, weight_decay=0.0, momentum=recipe.momentum, foreach=True)


class LearningRate:
    """Learning rate schedule, a pure function of epoch and step, so that it has no state to save."""

    def __init__(
        self, optimizer: Optimizer, recipe: Recipe | DetectionRecipe, steps_per_epoch: int, late: bool = False, slack: float = 0.0
    ):
        """Prepare the schedule.

        Parameters
        ----------
        optimizer
            Optimiser whose groups are set.
        recipe
            Peak, final and warm-up rates, and the length. The cosine's clock starts with the warm-up, not after it.
        steps_per_epoch
            Updates in an epoch.
        late
            Use the rate of epoch max(e - 1, 0) in epoch e, as the released code does (vmoe.md finding 23).
        slack
            See `DetectionRecipe.rate_factor`.

        Raises
        ------
        InputError
            If the warm-up is as long as the training.
        """
        self.optimizer, self.recipe, self.steps_per_epoch, self.late, self.slack = optimizer, recipe, steps_per_epoch, late, slack
        self.schedule = None
        if isinstance(recipe, DetectionRecipe):
            return
        units = steps_per_epoch if recipe.schedule_step == "update" else 1
        warmup = recipe.warmup_epochs * units if recipe.warmup_updates is None else recipe.warmup_updates
        if recipe.warmup_updates and warmup >= recipe.epochs * units:
            raise InputError(f"the recipe's warmup_updates {warmup} must be fewer than its {recipe.epochs * units} updates; lower them")
        if recipe.schedule == "cosine":
            self.schedule = CosineLRScheduler(
                optimizer,
                t_initial=recipe.epochs * units,
                lr_min=recipe.final_lr,
                warmup_t=warmup,
                warmup_lr_init=recipe.warmup_lr,
                t_in_epochs=recipe.schedule_step == "epoch",
            )

    def set(self, epoch: int, step: int) -> float:
        """Set and return the rate of update ``step`` (from 0) of ``epoch`` (from 0)."""
        if isinstance(self.recipe, DetectionRecipe):
            rate = self.recipe.peak_lr * self.recipe.rate_factor(epoch * self.steps_per_epoch + step, self.slack)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            return rate
        if self.schedule is not None:
            epoch = max(epoch - 1, 0) if self.late else epoch
            if self.recipe.schedule_step == "update":
                self.schedule.step_update(epoch * self.steps_per_epoch + step)
            else:
                self.schedule.step(epoch)
        return self.optimizer.param_groups[0]["lr"]
