"""Losses on logits from the literature of distillation, each from the equations of its paper.

Logits are (B, C) and at least single precision, labels (B,), and losses that depend on labels are given for each sample, (B,). Every
divergence of softened distributions is multiplied by the squared temperature (Hinton et al., arXiv 1503.02531, section 2.1).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Decoupled(NamedTuple):
    """Two parts of the divergence of each sample, (B,), before they are weighted."""

    target: Tensor
    """Divergence between the distributions of the target class and all others together (TCKD)."""
    others: Tensor
    """Divergence between the distributions among the other classes (NCKD)."""


def decoupled_divergence(student: Tensor, teacher: Tensor, labels: Tensor, tau: float) -> Decoupled:
    """Divergence from teacher to student in two parts (DKD, Zhao et al. 2022, arXiv 2203.08679, section 3).

    With p the teacher's softened probability of the target class, KL = target + (1 - p) others; DKD weighs the two freely.
    """
    is_target = F.one_hot(labels, student.shape[-1]).bool()
    among, binary = [], []
    for logits in (student / tau, teacher / tau):
        chosen, rest = logits[is_target], logits[~is_target].view(len(logits), -1)
        among.append(rest.log_softmax(dim=-1))
        binary.append(torch.stack([chosen, rest.logsumexp(dim=-1)], dim=-1).log_softmax(dim=-1))
    target, others = (F.kl_div(own, given, reduction="none", log_target=True).sum(dim=-1) for own, given in (binary, among))
    return Decoupled(tau**2 * target, tau**2 * others)


class Relations(NamedTuple):
    """Two parts of DIST, scalars, before they are weighted."""

    inter: Tensor
    """Between the classes of a sample."""
    intra: Tensor
    """Between the samples of a batch, class by class."""


def relational_distance(student: Tensor, teacher: Tensor, tau: float) -> Relations:
    """Distances of Pearson's correlation between predictions (DIST, Huang et al. 2022, arXiv 2205.10536, section 3).

    Rows of the softened predictions are compared (inter-class) and columns (intra-class); the latter need at least two samples.
    """
    student, teacher = (student / tau).softmax(dim=-1), (teacher / tau).softmax(dim=-1)
    inter, intra = pearson_distance(student, teacher).mean(), pearson_distance(student.T, teacher.T).mean()
    return Relations(tau**2 * inter, tau**2 * intra)


def pearson_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 minus Pearson's correlation of the rows of two matrices; 1 where a row is constant. Scale and shift of a row do not matter."""
    first, second = (values - values.mean(dim=-1, keepdim=True) for values in (first, second))
    return 1 - F.cosine_similarity(first, second, dim=-1, eps=1e-12)


def standardised(logits: Tensor) -> Tensor:
    """Z-scores of each sample's logits (Sun et al. 2024, arXiv 2403.01265): mean 0 and population standard deviation 1.

    Scale and shift of the logits do not matter.
    """
    deviation = logits.std(dim=-1, correction=0, keepdim=True)
    return (logits - logits.mean(dim=-1, keepdim=True)) / (deviation + torch.finfo(logits.dtype).eps)


def plackett_luce(student: Tensor, teacher: Tensor, labels: Tensor, tau: float) -> Tensor:
    """List-wise loss on the teacher's ranking of the classes (PLD, Bassam et al. 2025, arXiv 2506.12542), (B,).

    The ranking has the label first and the other classes in descending order of the teacher's logits. Each choice in it, of one class
    among those that are left, is a cross-entropy that is weighted by the teacher's probability of the chosen class at temperature tau.
    """
    first = teacher.scatter(-1, labels[:, None], torch.inf)
    order = first.argsort(dim=-1, descending=True, stable=True)
    scores, weights = student.gather(-1, order), (teacher / tau).softmax(dim=-1).gather(-1, order)
    left = scores.flip(-1).logcumsumexp(dim=-1).flip(-1)
    return (weights * (left - scores)).sum(dim=-1)


def adaptive_target(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Cross-entropy with the teacher in which the target's part is enhanced (OFA-KD, Hao et al. 2023, arXiv 2310.19444), (B,).

    -(1 + p)^gamma log q of the target class, with the teacher's probability p and the student's q, and -p log q of all others. With
    gamma 1 it is the cross-entropy with the label plus that with the teacher.
    """
    probabilities, logs = teacher.softmax(dim=-1), student.log_softmax(dim=-1)
    is_target = F.one_hot(labels, student.shape[-1]).bool()
    weights = torch.where(is_target, (1 + probabilities) ** gamma, probabilities)
    return -(weights * logs).sum(dim=-1)
