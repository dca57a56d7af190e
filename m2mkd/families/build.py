"""Construction and use of any student, whole or one of its modules, from its configuration and the compat switches that concern it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from m2mkd.config.compat import Value
from m2mkd.config.family import Architecture, Family
from m2mkd.config.registered_families import student_family
from m2mkd.families.nac import NACFamily
from m2mkd.families.vit import ViT
from m2mkd.families.vmoe import VMoEFamily

OUR_FAMILIES: tuple[type[Family[Any]], ...] = (ViT, VMoEFamily, NACFamily)
"""Families that this package registers. They are loaded by name; they are named here so that they count as code of what trains them."""


def build_student(
    config: Architecture,
    *,
    image_size: int,
    num_classes: int,
    prior: Any,
    stitch_width: int | None,
    drop_path: float = 0.0,
    graph_seed: int = 0,
    compat: Mapping[str, Value],
) -> nn.Module:
    """Build a whole student, with initial weights from torch's global generator; see `StudentFamily.build`."""
    return student_family(config).build(
        config,
        image_size=image_size,
        num_classes=num_classes,
        prior=prior,
        stitch_width=stitch_width,
        drop_path=drop_path,
        graph_seed=graph_seed,
        compat=compat,
    )


def build_module(
    config: Architecture,
    index: int,
    *,
    image_size: int,
    num_classes: int,
    stitch_width: int,
    drop_path: float,
    state_seed: int,
    batch_size: int = 1,
    compat: Mapping[str, Value],
) -> nn.Module:
    """Build one module of a student, with initial weights from torch's global generator; see `StudentFamily.build_module`."""
    return student_family(config).build_module(
        config,
        index,
        image_size=image_size,
        num_classes=num_classes,
        stitch_width=stitch_width,
        drop_path=drop_path,
        state_seed=state_seed,
        batch_size=batch_size,
        compat=compat,
    )


def noise_arguments(config: Architecture, generator: torch.Generator) -> dict[str, Any]:
    """Additional arguments of a student's forward pass in training, which draw from ``generator``."""
    return student_family(config).noise(config, generator)


def evaluation(student: nn.Module, config: Architecture, compat: Mapping[str, Value], seed: int) -> Callable[[Tensor], Tensor]:
    """Prediction function for measuring a student: images (B, 3, H, W) to logits, without noise unless ``eval_noise`` enables it.

    Parameters
    ----------
    student, config
        The network and its architecture.
    compat
        Value of ``eval_noise``; absent means corrected.
    seed
        Seed of the noise, which is drawn batch by batch.
    """
    if compat.get("eval_noise", "zero") == "zero":
        return student
    generators: dict[torch.device, torch.Generator] = {}

    def predict(images: Tensor) -> Tensor:
        generator = generators.setdefault(images.device, torch.Generator(images.device).manual_seed(seed))
        return student(images, **noise_arguments(config, generator))

    return predict


def regularisation(config: Architecture, student: nn.Module, compat: Mapping[str, Value]) -> Tensor | float:
    """Additional loss of a student or of one of its modules after a forward pass."""
    return student_family(config).regularisation(student, compat)


def no_weight_decay(student: nn.Module) -> set[str]:
    """Names of the parameters of a student or of one of its modules that do not decay; none unless it names some."""
    named: Callable[[], set[str]] = getattr(student, "no_weight_decay", set)
    return named()
