"""Construction of any student, whole or one of its modules, from its configuration and the compat switches that concern it."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from m2mkd.config.compat import Value
from m2mkd.config.models import NACConfig, Prior, VMoEConfig
from m2mkd.models.moe import MoE
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.noise import Noise
from m2mkd.models.nac.students import build_nac_module
from m2mkd.models.vmoe import VMoE, build_vmoe_module


def graph_fit_cut(compat: Mapping[str, Value]) -> float | None:
    """Distance within which the released fit brings the neighbours of a NAC's graph; None: corrected, between hinge and truncation."""
    cut = compat.get("graph_fit_cut", "hinge_to_truncation")
    return None if cut == "hinge_to_truncation" else float(cut)


def build_student(
    config: VMoEConfig | NACConfig,
    *,
    image_size: int,
    num_classes: int,
    prior: Prior | None,
    stitch_width: int | None,
    drop_path: float = 0.0,
    graph_seed: int = 0,
    compat: Mapping[str, Value],
) -> VMoE | NAC:
    """Build a whole student, with initial weights from torch's global generator.

    Parameters
    ----------
    config
        Architecture.
    image_size, num_classes
        Image size and number of classes of the data set.
    prior, graph_seed
        Graph prior of a NAC's mediators, and the seed of the graph and of the fit of the signatures to it.
    stitch_width
        Width of the meta model, for a V-MoE that keeps its stitch layers.
    drop_path
        Stochastic depth of a V-MoE; a NAC's is part of its architecture.
    compat
        Values of ``expert_init``, ``graph_fit_cut``, ``block_model_groups`` and ``distance_precision``; absent means corrected.
    """
    if isinstance(config, VMoEConfig):
        return VMoE(
            config,
            image_size=image_size,
            num_classes=num_classes,
            drop_path=drop_path,
            stitch_width=stitch_width,
            expert_init=compat.get("expert_init", "trunc02"),  # type: ignore[arg-type]
        )
    if compat.get("block_model_groups", "graph") == "graph":
        config = config.model_copy(update={"graph": config.graph.model_copy(update={"regulariser_groups": None})})
    return NAC(
        config,
        image_size=image_size,
        num_classes=num_classes,
        prior=prior,
        graph_seed=graph_seed,
        graph_fit_cut=graph_fit_cut(compat),
        half_distance=compat.get("distance_precision") == "half",
    )


def build_module(
    config: VMoEConfig | NACConfig,
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
    """Build one module of a student between its stitch layers, with initial weights from torch's global generator.

    Parameters
    ----------
    config, image_size, num_classes, drop_path
        See :func:`build_student`.
    index
        Number of the module, from 0.
    stitch_width
        Width of the meta model.
    state_seed
        Seed of the constant code and state of a NAC's module.
    batch_size
        Samples per batch; each has its own state if ``module_states`` says so.
    compat
        Values of ``expert_init``, ``readin_ffn_layer_scale`` and ``module_states``; absent means corrected.
    """
    if isinstance(config, VMoEConfig):
        return build_vmoe_module(
            config,
            index,
            image_size=image_size,
            num_classes=num_classes,
            stitch_width=stitch_width,
            drop_path=drop_path,
            expert_init=compat.get("expert_init", "trunc02"),  # type: ignore[arg-type]
        )
    scale = compat.get("readin_ffn_layer_scale", "config")
    return build_nac_module(
        config,
        index,
        image_size=image_size,
        num_classes=num_classes,
        stitch_width=stitch_width,
        readin_ffn_layer_scale=None if scale == "config" else float(scale),
        state_seed=state_seed,
        num_states=batch_size if compat.get("module_states") == "per_place" else 1,
    )


def noise_arguments(config: VMoEConfig | NACConfig, generator: torch.Generator) -> dict[str, Any]:
    """Additional arguments of a student's forward pass in training: a NAC and a router with noise draw from ``generator``."""
    if isinstance(config, NACConfig):
        return {"noise": Noise.from_generator(generator)}
    return {"noise": generator} if config.router == "vmoe" else {}


def evaluation(student: nn.Module, config: VMoEConfig | NACConfig, compat: Mapping[str, Value], seed: int) -> Callable[[Tensor], Tensor]:
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


def regularisation(student: nn.Module, compat: Mapping[str, Value]) -> Tensor | float:
    """Additional loss of a student or one of its modules: a NAC's regulariser, or the auxiliary losses of the MoE layers' last call."""
    if isinstance(student, NAC):
        return student.regularisation(compat.get("block_model_permutation", "graph"))  # type: ignore[arg-type]
    return sum(layer.take_auxiliary_loss() for layer in student.modules() if isinstance(layer, MoE))


def replace_head(student: VMoE | NAC, classes: int) -> nn.Linear:
    """Replace a student's classifier by a new one with torch's initial weights, and return it."""
    if isinstance(student, NAC):
        student.output_tokenizer.to_logits = nn.Linear(student.output_tokenizer.to_logits.in_features, classes)
        return student.output_tokenizer.to_logits
    student.reset_classifier(classes)
    return cast(nn.Linear, student.get_classifier())
