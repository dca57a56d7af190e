"""Training recipes of networks."""

import re
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from m2mkd.config.base import Config

RAND_AUGMENT = r"rand(-(m\d+|n[1-9]\d*|p(0(\.\d+)?|1(\.0+)?)|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)))*"
"""Strings that ``timm.data.auto_augment.rand_augment_transform`` accepts; it fails on an unknown section, or ignores it."""


class Augmentation(Config):
    """Image augmentation in training, by timm's ``create_transform`` and ``Mixup`` (vmoe.md 4.1, 4.2)."""

    crop_scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    """Share of the image's area that a random resized crop covers."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (0.75, 4 / 3)
    """Aspect ratio of a random resized crop."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment string; none switches it off."""
    erase: float = Field(0.25, ge=0, le=1)
    """Probability of random erasing (per-pixel noise, one box)."""
    repeats: PositiveInt = 1
    """Repeated augmentation: views of each sampled image; an epoch keeps its length, so it holds fewer distinct images."""
    mixup: NonNegativeFloat = 0.8
    """Alpha of mixup; 0 switches it off."""
    cutmix: NonNegativeFloat = 1.0
    """Alpha of CutMix; 0 switches it off."""
    cutmix_share: float = Field(0.5, ge=0, le=1)
    """Probability of CutMix if both are on."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing, folded into the soft targets."""
    backend: Literal["exact", "fast"] = Field("exact", exclude_if=lambda backend: backend == "exact")
    """Exact: timm's transforms, image by image. Fast: the same draws, applied to whole batches on the device; images differ by rounding, so
    that it is part of the key. If exact, it is not part of the key."""

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise ValueError("the lower bound is above the upper one; swap them")
        return bounds

    @field_validator("crop_scale")
    @classmethod
    def _inside_the_image(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[1] > 1:
            raise ValueError("a crop covers no more than the image; give shares up to 1")
        return bounds

    @field_validator("rand_augment")
    @classmethod
    def _known_to_timm(cls, policy: str | None) -> str | None:
        if policy is not None and not re.fullmatch(RAND_AUGMENT, policy):
            raise ValueError("not a RandAugment string of timm; write one like rand-m9-mstd0.5-inc1, or null")
        return policy

    @model_validator(mode="after")
    def _known_to_the_backend(self):
        if self.backend == "fast" and re.search(r"-t3aw?(-|$)", self.rand_augment or ""):
            raise ValueError(f"backend fast has no blur, which {self.rand_augment} needs; use backend exact, or another set than t3a")
        return self


class Recipe(Config):
    """Optimiser, schedule, precision and augmentation of one phase. Batch sizes are global."""

    TOGETHER: ClassVar[int] = 2
    """Number of images that accumulation must keep together: pairs of mixup."""
    epochs: PositiveInt
    batch_size: PositiveInt
    """Global batch size of one update; even, because mixup pairs a batch with its reverse."""
    lr: PositiveFloat
    """Learning rate for a batch of ``lr_batch``; scaled linearly to the batch size."""
    lr_batch: PositiveInt | None = 512
    """Batch size that ``lr`` refers to; none: not scaled."""
    min_lr: NonNegativeFloat = 1e-5
    """Final learning rate of the cosine."""
    scale_min_lr: bool = False
    """True if ``min_lr`` is scaled to the batch size like ``lr``."""
    warmup_epochs: NonNegativeInt = 0
    warmup_updates: NonNegativeInt | None = Field(None, exclude_if=lambda updates: updates is None)
    """Updates of the warm-up instead of its epochs, so that its length does not depend on the number of images; needs
    ``schedule_step: update``. If none, it is not part of the key."""
    warmup_lr: NonNegativeFloat = 1e-6
    """Learning rate at the start of the warm-up, never scaled."""
    schedule: Literal["cosine", "constant"] = "cosine"
    schedule_step: Literal["epoch", "update"] = "epoch"
    """Step of the learning rate: once an epoch (as published) or at every update."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD (Nesterov); AdamW uses betas 0.9 and 0.999."""
    weight_decay: NonNegativeFloat = 0.05
    clip_norm: PositiveFloat | None = None
    """Largest global L2 norm of the gradient; none: not clipped."""
    skip_nonfinite: NonNegativeInt = 0
    """Batches with a non-finite loss or gradient that are skipped before the training stops."""
    ema_decay: float | None = Field(None, gt=0, lt=1, exclude_if=lambda decay: decay is None)
    """Decay, at every update, of a moving average of the weights, which is then measured and published; none: no average, and not part of
    the key."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth of ViT and V-MoE: rate of the last block, linear from 0 (a NAC has its own)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    train_share: float = Field(1.0, gt=0, le=1)
    """Share of the training images that is used, the same images for every variant and seed, stratified by class."""
    eval_every: PositiveInt = 1
    """Epochs between measurements on the validation set; the last epoch is always measured."""
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _check(self):
        if self.batch_size % 2:
            raise ValueError(f"batch_size {self.batch_size} is odd; mixup pairs a batch with its reverse, so use an even one")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} is not below the {self.epochs} epochs; lower it")
        if self.warmup_updates is not None and self.schedule_step != "update":
            raise ValueError("warmup_updates needs schedule_step: update; set that, or give warmup_epochs")
        return self

    def passes(self, steps_per_epoch: int) -> int:
        """Passes over the training set."""
        return self.epochs

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up."""
        return self.lr * self._scaling

    @property
    def final_lr(self) -> float:
        """Learning rate at the end of the cosine."""
        return self.min_lr * (self._scaling if self.scale_min_lr else 1.0)

    @property
    def _scaling(self) -> float:
        return self.batch_size / self.lr_batch if self.lr_batch else 1.0


class Distillation(Config):
    """The distillation term of a loss (vmoe.md 5)."""

    kind: Literal["soft", "hard", "none"] = "soft"
    """Soft: KL to the teacher's distribution; hard: cross-entropy with its argmax; none: labels only."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the distillation term; the labels have the remaining weight."""
    tau: PositiveFloat = 1.0
    """Temperature of both distributions."""

    @property
    def needs_teacher(self) -> bool:
        """True if a teacher is run."""
        return self.kind != "none"

    @property
    def is_normalised(self) -> bool:
        """True if the compat switch ``kl_norm`` matters."""
        return self.kind == "soft"
