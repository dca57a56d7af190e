"""Tokens of stages: how they are seen as a network runs, and how far the student's are from the teacher's."""

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from m2mkd.config.objective import StageTokens, StageWidths
from m2mkd.errors import InputError
from m2mkd.models.stitch import Stitch


class Tap:
    """Tokens that a stage or a module has put out last, before final norm and head.

    Parameters
    ----------
    stage
        Stage of a ViT or V-MoE, or module of a NAC. Its forward pass is not changed.

    Attributes
    ----------
    width : int
        Token width.
    """

    def __init__(self, stage: nn.Module) -> None:
        # A read-out of a NAC has no stitch layer behind its one latent.
        source: Any = getattr(stage, "post_stitch", None) or stage.layer
        self.width = _width(stage, source)
        self._tokens: Tensor | None = None
        source.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._tokens = output

    def take(self) -> Tensor:
        """Tokens (B, N, width) of the last forward pass, each once, so that no graph outlives its update."""
        tokens, self._tokens = self._tokens, None
        if tokens is None:
            raise ValueError("the stage has not run since its tokens were taken")
        return tokens


def _width(stage: Any, source: nn.Module) -> int:
    if isinstance(source, Stitch):
        return source.fc.out_features
    if isinstance(source, nn.Linear):
        return source.out_features
    if isinstance(source, nn.Identity):
        return stage.blocks[0].norm1.normalized_shape[0]
    return stage.states.shape[-1]


def taps(stages: Iterable[nn.Module], what: str) -> tuple[Tap, ...]:
    """A tap on each stage.

    Raises
    ------
    InputError
        If one is of a kind whose tokens cannot be seen; ``what`` names the network.
    """
    found = list(stages)
    for stage in found:
        if not (hasattr(stage, "post_stitch") or hasattr(stage, "layer")):
            raise InputError(f"{what}: {type(stage).__name__} has no tokens of stages; remove the terms that need them, such as features")
    return tuple(Tap(stage) for stage in found)


def projectors(widths: tuple[StageWidths, ...]) -> nn.Module | None:
    """A linear map from the student's width to the teacher's for each stage where they differ; None where none does."""
    unequal = {str(index): pair for index, pair in enumerate(widths) if pair.student != pair.teacher}
    return nn.ModuleDict({index: nn.Linear(pair.student, pair.teacher) for index, pair in unequal.items()}) if unequal else None


def token_error(tokens: tuple[StageTokens, ...], own: nn.Module | None) -> Tensor:
    """Mean squared error of the tokens of each stage, mean over the stages.

    Parameters
    ----------
    tokens
        Of each stage. Where the student has a single token, as modules of a NAC do, it stands for the teacher's class token.
    own
        What `projectors` gave.
    """
    errors = []
    for index, (student, teacher) in enumerate(tokens):
        if isinstance(own, nn.ModuleDict) and str(index) in own:
            student = own[str(index)](student)  # noqa: PLW2901
        compared = teacher[:, :1] if student.shape[1] == 1 else teacher
        if student.shape[1] != compared.shape[1]:
            raise InputError(
                f"features: stage {index} of the student has {student.shape[1]} tokens, the teacher's {compared.shape[1]}; remove the term"
            )
        dtype = student.dtype if student.dtype.itemsize >= 4 else compared.float().dtype
        errors.append(F.mse_loss(student.to(dtype), compared.to(dtype)))
    return sum(errors[1:], errors[0]) / len(errors)
