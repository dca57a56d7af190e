"""Interface between a phase and the training loop."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from m2mkd.distill.losses import Loss
from m2mkd.evaluation.released import Meter
from m2mkd.ranks import Ranks
from m2mkd.training.usage import Usage


@dataclass(frozen=True)
class Task:
    """Inputs of the training loop from a phase: the network that trains, its loss, and its predictions."""

    trained: nn.Module
    """Module whose parameters that require a gradient are optimised; all of it is saved."""
    network: nn.Module
    """Module that switches between training and evaluation mode; contains ``trained``."""
    loss: Callable[[Any, Any, torch.Generator], Tensor | Loss]
    """Maps images (B, 3, H, W), soft targets (B, C) and the source of model noise to the mean loss; for a detector, lists of both. Each
    part of a loss with several parts has its own curve."""
    predict: Callable[[Tensor], Tensor] | None = None
    """Maps images to logits (B, C), without noise; None if ``measure`` is given."""
    no_weight_decay: Collection[str] = ()
    """Names of parameters without weight decay."""
    meter: Meter | None = None
    """Averaging of the images' accuracy into ``val_top1``; None: their mean."""
    diagnose: Callable[[Tensor], dict[str, float]] | None = None
    """Maps a few validation images to measurements of the network's parts, with a slash in their names; None: no diagnosis."""
    decay_all: bool = False
    decay_scalars: bool = False
    decay_vectors: bool = False
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    """See `m2mkd.training.optim.build_optimizer`."""
    late_schedule: bool = False
    schedule_slack: float = 0.0
    """See `m2mkd.training.optim.LearningRate`."""
    predictor: Callable[[], Callable[[Tensor], Tensor]] | None = None
    """Returns a replacement for ``predict`` in each validation pass if it draws random numbers, which restart in each pass."""
    measure: Callable[[Iterable[Any], Ranks], dict[str, float]] | None = None
    """Maps this rank's validation batches to measurements over all ranks, with names that begin with ``val_``; None: accuracy."""


@dataclass(frozen=True)
class Trainee:
    """Task, with the place where its training is kept."""

    task: Task
    folder: Path
    """Work folder: checkpoints, and ``metrics.jsonl``."""
    title: str
    """Title in the progress display."""
    usage: Usage = field(default_factory=Usage)
    """Time and energy used, continued from the checkpoint."""


class Batches(Protocol):
    """Training batches, a function of epoch and step."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start_step: int = 0, /) -> Iterator[Any]: ...
