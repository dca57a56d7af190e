"""An objective at work: the terms' values on a batch, their trained parameters, and what they need to see of the networks."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from m2mkd.config.objective import Given, Objective, ObjectiveTerm, StageTokens, StageWidths
from m2mkd.distill.features import taps
from m2mkd.distill.losses import Loss, labels_loss, raised
from m2mkd.distill.mixing import mixed_labels
from m2mkd.distill.terms import DIST, DKD, OFA, PLD, Features, Hard, Labels, Soft, Standardised
from m2mkd.errors import InputError

OURS: tuple[type[ObjectiveTerm], ...] = (Labels, Soft, Hard, Standardised, DKD, DIST, PLD, OFA, Features)
"""Terms that this package registers. They are loaded by name; they are named here so that they count as code of what trains by them."""


class TaughtLoss(nn.Module):
    """Loss of a student by an objective; its parameters are those of the terms.

    Parameters
    ----------
    objective
        Terms and their weights.
    student_stages, teacher_stages
        Stages whose tokens the terms may ask for, pair by pair; not looked at unless one does.
    smoothing
        Label smoothing of the recipe.
    kl_norm
        Value of the compat switch.
    """

    def __init__(
        self,
        objective: Objective,
        student_stages: Iterable[nn.Module],
        teacher_stages: Iterable[nn.Module],
        *,
        smoothing: float,
        kl_norm: Literal["batch", "numel"],
    ) -> None:
        super().__init__()
        self.objective, self.smoothing, self.kl_norm = objective, smoothing, kl_norm
        sees = "tokens" in objective.needs
        self._student = taps(student_stages, "student") if sees else ()
        self._teacher = taps(teacher_stages, "teacher") if sees else ()
        widths = tuple(StageWidths(own.width, taught.width) for own, taught in zip(self._student, self._teacher, strict=True))
        built = {str(index): term.build(widths if "tokens" in term.NEEDS else ()) for index, term in enumerate(objective.terms)}
        self.terms = nn.ModuleDict({index: own for index, own in built.items() if own is not None})

    @property
    def is_trained(self) -> bool:
        """True if a term has parameters of its own."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def forward(self, student: Tensor, targets: Tensor, teacher: Tensor | None) -> Loss:
        """Loss of a batch, and each term of it before it is weighted.

        The cross-entropy with the labels is among the parts in any case, so that the curves of all objectives can be compared.

        Parameters
        ----------
        student, teacher
            Logits (B, C); the teacher's None unless the objective needs one.
        targets
            Class probabilities (B, C).

        Raises
        ------
        InputError
            If a term does not give a scalar.
        """
        needs = self.objective.needs
        student, taught = raised(student), None if teacher is None else raised(teacher)
        pairs = zip(self._student, self._teacher, strict=True)
        common: dict[str, Any] = {"student": student, "targets": targets, "teacher": taught, "kl_norm": self.kl_norm}
        common["labels"] = mixed_labels(targets, self.smoothing) if "labels" in needs else None
        common["tokens"] = tuple(StageTokens(own.take(), given.take()) for own, given in pairs)
        value: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for index, (curve, term) in enumerate(zip(self.objective.curves, self.objective.terms, strict=True)):
            found = term.loss(Given(**common, own=dict(self.terms.items()).get(str(index))))
            if not isinstance(found, Tensor) or found.ndim:
                shape = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
                raise InputError(f"objective term {term.kind}: gives {shape}, but a scalar tensor is needed; let its loss give the mean")
            parts[curve] = found
            value = term.weight * found if value is None else value + term.weight * found
        assert value is not None, "an objective has a term"
        if "cross_entropy" not in parts:
            with torch.no_grad():
                parts = labels_loss(student, targets).parts | parts
        return Loss(value, parts)


class Alongside(nn.Module):
    """A network and the trained parameters of an objective, which train as one and of which only the network is published."""

    def __init__(self, network: nn.Module, loss: TaughtLoss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the network, which is what is called."""
        self.network.compile(*arguments, **options)


def names_alongside(names: Iterable[str]) -> set[str]:
    """Names of a network's parameters within `Alongside`."""
    return {f"network.{name}" for name in names}
