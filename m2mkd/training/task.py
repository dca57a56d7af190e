"""What a phase gives the loop."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2mkd.distill.losses import Loss
from m2mkd.evaluation.released import Meter
from m2mkd.ranks import Ranks
from m2mkd.training.usage import Usage


@dataclass(frozen=True)
class Task:
    """What a phase gives the loop: the network that trains, its loss, and its predictions."""

    trained: nn.Module
    """Its parameters that require a gradient are optimised; all of it is saved."""
    network: nn.Module
    """Everything that switches between training and evaluation mode; contains ``trained``."""
    loss: Callable[[Any, Any, torch.Generator], Tensor | Loss]
    """From images (B, 3, H, W), soft targets (B, C) and the source of model noise to the mean loss; of a detector from lists of both. Where
    it is made of several parts, each has its own curve."""
    predict: Callable[[Tensor], Tensor] | None = None
    """From images to logits (B, C), without noise; none where ``measure`` is given."""
    no_weight_decay: Collection[str] = ()
    """Parameters without weight decay."""
    meter: Meter | None = None
    """How the accuracy of single images becomes ``val_top1``; none: as their mean."""
    diagnose: Callable[[Tensor], dict[str, float]] | None = None
    """From a few validation images to numbers, named with a slash, on how the network uses its parts; none: nothing is looked at."""
    decay_all: bool = False
    decay_scalars: bool = False
    decay_vectors: bool = False
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    """As in `m2mkd.training.optim.build_optimizer`."""
    late_schedule: bool = False
    schedule_slack: float = 0.0
    """As in `m2mkd.training.optim.LearningRate`."""
    predictor: Callable[[], Callable[[Tensor], Tensor]] | None = None
    """Gives what is used instead of ``predict`` in each pass over the validation set, where it draws random numbers; they begin anew."""
    measure: Callable[[Iterable[Any], Ranks], dict[str, float]] | None = None
    """From this rank's validation batches to what all of them come to, each number's name beginning with ``val_``; none: accuracy."""


@dataclass(frozen=True)
class Trainee:
    """A task, and where its training is kept."""

    task: Task
    folder: Path
    """Work folder: checkpoints, and ``metrics.jsonl``."""
    title: str
    """Shown with the progress."""
    usage: Usage = field(default_factory=Usage)
    """What is spent on it, which goes on from what the checkpoint says."""
