"""Losses of training and distillation (specification vmoe.md 4.2 and 5); half precision is raised to fp32."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from m2mkd.config.recipe import Distillation

KLNorm = Literal["batch", "numel"]


class Loss(NamedTuple):
    """Loss of a batch, and what it is made of."""

    value: Tensor
    """Scalar that is minimised."""
    parts: dict[str, Tensor]
    """Scalars by the name of their curve: ``cross_entropy`` and ``divergence`` before they are weighted, ``regulariser`` as it is added."""

    def with_regulariser(self, regulariser: Tensor | float) -> "Loss":
        """Add the regulariser of a network, which is no tensor where the network has none."""
        if not isinstance(regulariser, Tensor):
            return self
        return Loss(self.value + regulariser, self.parts | {"regulariser": regulariser})


def labels_loss(logits: Tensor, targets: Tensor) -> Loss:
    """Loss of a network that learns from labels alone; logits and class probabilities are (B, C)."""
    value = soft_cross_entropy(logits, targets)
    return Loss(value, {"cross_entropy": value})


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with soft targets, mean over the batch.

    Parameters
    ----------
    logits
        (B, C).
    targets
        Class probabilities (B, C).
    """
    # F.cross_entropy has the same gradient to the bit, but adds up its value in another order: logs and golden curves would change.
    return -(targets * F.log_softmax(raised(logits), dim=-1)).sum(dim=-1).mean()


def kd_divergence(student_logits: Tensor, teacher_logits: Tensor, tau: float, normalise: KLNorm) -> Tensor:
    """Kullback-Leibler divergence from the teacher's distribution to the student's, times the squared temperature.

    Parameters
    ----------
    student_logits, teacher_logits
        (B, C).
    tau
        Temperature of both distributions.
    normalise
        What the sum over batch and classes is divided by: ``batch``, B; ``numel``, B x C, as in the released code
        (specification vmoe.md 7, finding 1).
    """
    student, teacher = (F.log_softmax(raised(logits) / tau, dim=-1) for logits in (student_logits, teacher_logits))
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return tau**2 * total / (len(student) if normalise == "batch" else student.numel())


def hard_distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most probable class, mean over the batch; logits are (B, C)."""
    return F.cross_entropy(raised(student_logits), teacher_logits.argmax(dim=-1))


def distillation_loss(
    student_logits: Tensor, targets: Tensor, teacher_logits: Tensor | None, distillation: Distillation, kl_norm: KLNorm
) -> Loss:
    """Loss of a student: labels and teacher, weighted by alpha (specification vmoe.md 5, m2mKD).

    Parameters
    ----------
    student_logits
        (B, C).
    targets
        Class probabilities (B, C).
    teacher_logits
        (B, C); None where ``distillation.kind`` is ``none``.
    distillation
        Kind, weight and temperature of the distillation term. Kind ``none`` gives the labels the whole weight.
    kl_norm
        As ``normalise`` in `kd_divergence`.

    Raises
    ------
    ValueError
        If the teacher's logits are missing.
    """
    labels = labels_loss(student_logits, targets)
    if distillation.kind == "none":
        return labels
    if teacher_logits is None:
        raise ValueError(f"distillation {distillation.kind} needs the teacher's logits")
    if distillation.kind == "hard":
        term = hard_distillation(student_logits, teacher_logits)
    else:
        term = kd_divergence(student_logits, teacher_logits, distillation.tau, kl_norm)
    value = (1 - distillation.alpha) * labels.value + distillation.alpha * term
    return Loss(value, labels.parts | {"divergence": term})


def raised(logits: Tensor) -> Tensor:
    """Logits in at least single precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
