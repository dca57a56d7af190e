"""Task of training one student module inside a frozen meta model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from m2mkd.config.compat import Value
from m2mkd.distill.hybrid import DistillationHybrid
from m2mkd.distill.losses import Loss
from m2mkd.distill.objective import Alongside, TaughtLoss, names_alongside
from m2mkd.families.build import no_weight_decay
from m2mkd.training.task import Task


def hybrid_task(
    hybrid: DistillationHybrid,
    taught: TaughtLoss | Callable[[Tensor, Tensor, Tensor | None], Loss],
    noise: Callable[[torch.Generator], Mapping[str, Any]],
    regulariser: Callable[[], Tensor | float],
    compat: Mapping[str, Value],
    **options: Any,
) -> Task:
    """Task in which the student module of a hybrid is the only part that trains, together with the parameters of its objective.

    Parameters
    ----------
    hybrid
        Meta model with student and teacher module.
    taught
        Maps logits (B, C), soft targets (B, C) and the teacher's logits to the loss, without the regulariser of the network.
    noise
        Arguments of the student module in training, from the source of model noise.
    regulariser
        Additional loss of the student module after a forward pass.
    compat
        Values of the switches that concern weight decay.
    **options
        Further fields of the task.
    """
    student: Any = hybrid.student

    def loss(images: Tensor, targets: Tensor, source: torch.Generator) -> Loss:
        logits = hybrid(images, **noise(source))
        return taught(logits.student, targets, logits.teacher).with_regulariser(regulariser())

    spared = no_weight_decay(student)
    beside = taught if isinstance(taught, TaughtLoss) and taught.is_trained else None
    return Task(
        trained=student if beside is None else Alongside(student, beside),
        network=hybrid if beside is None else Alongside(hybrid, beside),
        loss=loss,
        no_weight_decay=spared if beside is None else names_alongside(spared),
        decay_scalars=compat.get("gain_decay") == "decayed",
        **options,
    )
