"""Hybrid networks: a meta model in which one module is exchanged (specification vmoe.md 5, MT and m2mKD)."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from m2mkd.errors import InputError
from m2mkd.models.vit import StagedTransformer

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class SharedPrefix(nn.Module):
    """The first stages of a meta model, run once for several hybrids that get the same images one after the other.

    Hybrids in ascending order of their modules go on from where the last one stood, so that each stage runs once for each image. A batch,
    or a micro-batch that a batch is accumulated from, is recognised by being the same tensor; nobody may change it, or the weights, while
    it is there. What the stages made of it goes with it.

    Parameters
    ----------
    meta
        Meta model; frozen in place.
    """

    def __init__(self, meta: StagedTransformer) -> None:
        super().__init__()
        self.stages = freeze(meta.stages)
        self._reached: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        """By images: number of the stages behind them, at least 1, and the output of the last of these."""

    # Not compiled itself, which what it remembers would make it again for each batch; the stages that it calls are.
    @torch.compiler.disable(recursive=False)
    @torch.no_grad()
    def forward(self, images: Tensor, count: int) -> Tensor:
        """Output of the first ``count`` stages, without a graph: tokens (B, N, d), or the images (B, 3, H, W) themselves after none."""
        if count == 0:
            return images
        done, output = self._reached.get(images, (0, images))
        if done > count:
            done, output = 0, images
        output = _run(self.stages[done:count], output)
        self._reached[images] = count, output
        return output


class HybridLogits(NamedTuple):
    """Logits (B, C) of the two hybrid networks; the teacher's carry no graph, and are None without a teacher."""

    student: Tensor
    teacher: Tensor | None


class DistillationHybrid(nn.Module):
    """The meta model twice, with the student's and with the teacher's module in the same place.

    The stages before the module run once, without a graph. Gradients flow through the stages after it into the student
    module, the only part that is trained. The frozen parts stay in evaluation mode.

    Parameters
    ----------
    meta
        Meta model; frozen in place. Its own stage ``index`` is not used.
    index
        Number of the module, from 0.
    student
        Student module of any family, from the output of the stage before (images if first) to the input of the stage
        after (logits if last).
    teacher
        The teacher's stage ``index``, frozen in place; None where no teacher is asked.
    shared
        Prefix of the same meta model that other hybrids use too; None: this one runs its own.

    Raises
    ------
    InputError
        If the meta model has no such module.
    """

    def __init__(
        self,
        meta: StagedTransformer,
        index: int,
        student: nn.Module,
        teacher: nn.Module | None = None,
        shared: SharedPrefix | None = None,
    ) -> None:
        super().__init__()
        _check_index(meta, index)
        self.shared = shared
        self.prefix = freeze(nn.ModuleList(meta.stages[:index]))
        self.suffix = freeze(nn.ModuleList(meta.stages[index + 1 :]))
        self.teacher = None if teacher is None else freeze(teacher)
        self.student = student

    def forward(self, images: Tensor, **student_inputs: Any) -> HybridLogits:
        """Logits of both hybrid networks.

        Parameters
        ----------
        images
            (B, 3, H, W).
        **student_inputs
            Passed on to the student module.
        """
        x = self._before(images)
        with torch.no_grad():
            teacher = None if self.teacher is None else _run(self.suffix, self.teacher(x))
        return HybridLogits(_run(self.suffix, self.student(x, **student_inputs)), teacher)

    def student_logits(self, images: Tensor, **student_inputs: Any) -> Tensor:
        """Logits (B, C) of the student's hybrid network alone, for validation; arguments as in `forward`."""
        return _run(self.suffix, self.student(self._before(images), **student_inputs))

    @torch.no_grad()
    def _before(self, images: Tensor) -> Tensor:
        """What reaches the module."""
        return _run(self.prefix, images) if self.shared is None else self.shared(images, len(self.prefix))

    def train(self, mode: bool = True) -> Self:
        """Switch the student module between training and evaluation mode; the frozen parts stay in the latter."""
        super().train(mode)
        for frozen in (self.prefix, self.suffix, self.teacher, self.shared):
            if frozen is not None:
                frozen.eval()
        return self


class IncubationHybrid(nn.Module):
    """The meta model with one stage of the teacher's depth, the only part that is trained.

    The stages before run without a graph; gradients flow through those after. Every stage follows the training mode, so
    that drop path acts in the meta blocks too, as published.

    Parameters
    ----------
    network
        Network of `m2mkd.models.vit.incubation_config` with the meta model's weights; its other stages are frozen in place.
    index
        Number of the trained stage, from 0.

    Raises
    ------
    InputError
        If the network has no such stage.
    """

    def __init__(self, network: StagedTransformer, index: int) -> None:
        super().__init__()
        _check_index(network, index)
        self.prefix = nn.ModuleList(network.stages[:index]).requires_grad_(False)
        self.target: nn.Module = network.stages[index]
        self.suffix = nn.ModuleList(network.stages[index + 1 :]).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W)."""
        with torch.no_grad():
            x = _run(self.prefix, images)
        return _run(self.suffix, self.target(x))


def freeze(module: ModuleT) -> ModuleT:
    """Take a module out of training in place: no parameter asks for a gradient, evaluation mode."""
    module.requires_grad_(False)
    module.eval()
    return module


def _run(stages: Iterable[nn.Module], x: Tensor) -> Tensor:
    for stage in stages:
        x = stage(x)
    return x


def _check_index(network: StagedTransformer, index: int) -> None:
    if not 0 <= index < len(network.stages):
        raise InputError(f"module {index} does not exist: the meta model has modules 0 to {len(network.stages) - 1}")
