"""Terms of objectives that this package registers: their parameters, and which of the losses they stand for.

Torch is imported where a loss is computed, for plans read parameters alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from m2mkd.config.objective import Given, Need, ObjectiveTerm, StageWidths

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


class Labels(ObjectiveTerm):
    """Cross-entropy with the soft targets."""

    NEEDS: ClassVar[frozenset[Need]] = frozenset()
    CURVE: ClassVar[str] = "cross_entropy"
    kind: Literal["labels"] = "labels"

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.losses import soft_cross_entropy

        return soft_cross_entropy(given.student, given.targets)


class Soft(ObjectiveTerm):
    """Kullback-Leibler divergence from the teacher's distribution, times the squared temperature (Hinton et al., arXiv 1503.02531)."""

    NEEDS: ClassVar[frozenset[Need]] = frozenset({"teacher", "kl_norm"})
    CURVE: ClassVar[str] = "divergence"
    kind: Literal["soft"] = "soft"
    temperature: PositiveFloat = 1.0

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.losses import kd_divergence

        return kd_divergence(given.student, _taught(given), self.temperature, given.kl_norm)


class Hard(ObjectiveTerm):
    """Cross-entropy with the teacher's most probable class (Touvron et al., arXiv 2012.12877, hard-label distillation)."""

    kind: Literal["hard"] = "hard"

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.losses import hard_distillation

        return hard_distillation(given.student, _taught(given))


class Standardised(ObjectiveTerm):
    """As soft, between standardised logits (Sun et al., arXiv 2403.01265); the divergence is a mean over the batch."""

    kind: Literal["standardised"] = "standardised"
    temperature: PositiveFloat = 2.0
    """Base temperature, by which the Z-scores are divided."""

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.logit_losses import standardised
        from m2mkd.distill.losses import kd_divergence

        return kd_divergence(standardised(given.student), standardised(_taught(given)), self.temperature, "batch")


class DKD(ObjectiveTerm):
    """Decoupled knowledge distillation, alpha TCKD + beta NCKD (Zhao et al., arXiv 2203.08679)."""

    NEEDS: ClassVar[frozenset[Need]] = frozenset({"teacher", "labels"})
    kind: Literal["dkd"] = "dkd"
    alpha: NonNegativeFloat = 1.0
    """Weight of the divergence between target and all other classes."""
    beta: NonNegativeFloat = 8.0
    """Weight of the divergence among the other classes."""
    temperature: PositiveFloat = 4.0

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.logit_losses import decoupled_divergence

        def of_labels(labels: Tensor) -> Tensor:
            parts = decoupled_divergence(given.student, _taught(given), labels, self.temperature)
            return self.alpha * parts.target + self.beta * parts.others

        return _over_labels(given, of_labels)


class DIST(ObjectiveTerm):
    """Correlation of predictions instead of their divergence (Huang et al., arXiv 2205.10536); it depends on how a batch is divided."""

    kind: Literal["dist"] = "dist"
    beta: NonNegativeFloat = 1.0
    """Weight of the relations between the classes of a sample."""
    gamma: NonNegativeFloat = 1.0
    """Weight of the relations between the samples of a batch."""
    temperature: PositiveFloat = 1.0

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.logit_losses import relational_distance

        parts = relational_distance(given.student, _taught(given), self.temperature)
        return self.beta * parts.inter + self.gamma * parts.intra


class PLD(ObjectiveTerm):
    """Plackett-Luce distillation, a list-wise loss on the teacher's ranking (Bassam et al., arXiv 2506.12542)."""

    NEEDS: ClassVar[frozenset[Need]] = frozenset({"teacher", "labels"})
    kind: Literal["pld"] = "pld"
    temperature: PositiveFloat = 1.0
    """Of the teacher's probabilities, which weigh the choices."""

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.logit_losses import plackett_luce

        return _over_labels(given, lambda labels: plackett_luce(given.student, _taught(given), labels, self.temperature))


class OFA(ObjectiveTerm):
    """Adaptive target enhancement of one-for-all distillation (Hao et al., arXiv 2310.19444), on the logits alone."""

    NEEDS: ClassVar[frozenset[Need]] = frozenset({"teacher", "labels"})
    kind: Literal["ofa"] = "ofa"
    gamma: NonNegativeFloat = 1.0
    """Exponent of the target's weight."""

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.logit_losses import adaptive_target

        return _over_labels(given, lambda labels: adaptive_target(given.student, _taught(given), labels, self.gamma))


class Features(ObjectiveTerm):
    """Mean squared error of the tokens of stages, with a linear map of its own where widths differ (after FitNets, arXiv 1412.6550)."""

    NEEDS: ClassVar[frozenset[Need]] = frozenset({"tokens"})
    kind: Literal["features"] = "features"

    def build(self, widths: tuple[StageWidths, ...]) -> nn.Module | None:
        from m2mkd.distill.features import projectors

        return projectors(widths)

    def loss(self, given: Given) -> Tensor:
        from m2mkd.distill.features import token_error

        return token_error(given.tokens, given.own)


def _taught(given: Given) -> Tensor:
    if given.teacher is None:
        raise ValueError("the term needs the teacher's logits")
    return given.teacher


def _over_labels(given: Given, loss: Callable[[Tensor], Tensor]) -> Tensor:
    if given.labels is None:
        raise ValueError("the term needs the labels before mixing")
    return given.labels.mean(loss)
