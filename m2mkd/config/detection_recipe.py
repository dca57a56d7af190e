"""Training recipes of detectors (specification detection.md 1, 3.6)."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from m2mkd.config.base import Config
from m2mkd.config.detection_input import DetectionInput


class DetectionRecipe(Config):
    """Optimiser, schedule, precision and input of a detector's training, counted in updates; the defaults are ViTDet's."""

    TOGETHER: ClassVar[int] = 1
    """Number of images that accumulation must keep together."""
    optimizer: ClassVar[Literal["adamw"]] = "adamw"
    """Betas 0.9 and 0.999."""
    momentum: ClassVar[float] = 0.9
    ema_decay: ClassVar[float | None] = None
    """None, because detectors have no moving average of the weights."""
    updates: PositiveInt
    """Length of the training; its last pass over the set may be cut short."""
    batch_size: PositiveInt
    """Global batch of one update."""
    lr: PositiveFloat
    """Learning rate after the warm-up, of the heads; not scaled to the batch."""
    warmup_updates: NonNegativeInt = 0
    """Updates over which the rate grows linearly from ``warmup_factor`` of it."""
    warmup_factor: float = Field(0.001, gt=0, le=1)
    milestones: tuple[PositiveInt, ...] = ()
    """Updates from which the rate is a tenth of its previous value."""
    layer_decay: float = Field(0.7, gt=0, le=1)
    """Factor on the rate from one layer of the backbone to the one below it."""
    weight_decay: NonNegativeFloat = 0.1
    norm_decay: Literal["decayed", "spared"] = "decayed"
    """True if weight decay applies to the norms of pyramid and heads, as published; it never applies to those of the backbone."""
    clip_norm: PositiveFloat | None = None
    """Largest global L2 norm of the gradient; none: not clipped."""
    skip_nonfinite: NonNegativeInt = 0
    """Batches with a non-finite loss or gradient that are skipped before the training stops."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth of the backbone: rate of the last block, linear from 0."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    eval_every: PositiveInt = 1000
    """Passes over the training set between measurements; the end is always measured."""
    input: DetectionInput = DetectionInput()
    """Processing of images."""

    @model_validator(mode="after")
    def _in_order(self):
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones are not in ascending order without repetition; sort them")
        if self.milestones and self.milestones[-1] >= self.updates:
            raise ValueError(f"milestones: {self.milestones[-1]} is not below the {self.updates} updates; lower it")
        if self.warmup_updates >= self.updates:
            raise ValueError(f"warmup_updates {self.warmup_updates} is not below the {self.updates} updates; lower it")
        return self

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up."""
        return self.lr

    def passes(self, steps_per_epoch: int) -> int:
        """Passes over the training set, the last of which may be cut short."""
        return -(-self.updates // steps_per_epoch)

    def rate_factor(self, update: int, slack: float = 0.0) -> float:
        """Factor on the learning rate at an update, from 0.

        Parameters
        ----------
        update
            Number of the update.
        slack
            Updates by which every limit comes early; fvcore's is a millionth of the training, which moves the published milestones one
            update forward.
        """
        if update + slack < self.warmup_updates:
            return self.warmup_factor + (1 - self.warmup_factor) * update / self.warmup_updates
        return float(0.1 ** sum(update + slack >= milestone for milestone in self.milestones))
