"""Construction of a network of this package from a description and released tensors."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from m2mkd.config.detection import DetectorConfig
from m2mkd.config.models import NACConfig, ViTConfig, VMoEConfig
from m2mkd.config.registered_families import family_of
from m2mkd.detection import names as detector_names
from m2mkd.detection.detector import Detector
from m2mkd.errors import InputError
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.kernel import DotProductKernel
from m2mkd.models.nac.layers import LatentLayer, ReadIn
from m2mkd.models.nac.students import build_nac_module
from m2mkd.models.names import nac as nac_names
from m2mkd.models.names import vit as vit_names
from m2mkd.models.names.sources import Source, gather
from m2mkd.models.vit import StagedViT, build_stage
from m2mkd.models.vmoe import VMoE, build_vmoe_module
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.contents import Checkpoint
from m2mkd.upstream.description import Description

CONSTANTS_SEED = 0
"""Seed of the code and state of a NAC's module whose file holds none, as in the released files."""


def build(description: Description) -> nn.Module:
    """Build the described network or module, with initial weights from torch's global generator."""
    sizes: dict[str, Any] = {"image_size": description.image_size, "num_classes": description.num_classes}
    match description.kind:
        case "vit":
            vit, stage = cast(ViTConfig, description.architecture), description.stage
            return StagedViT(vit, **sizes) if stage is None else build_stage(vit, stage, **sizes)
        case "vmoe":
            return VMoE(description.architecture, stitch_width=description.stitch_width, **sizes)  # type: ignore[arg-type]
        case "vmoe_module":
            return _vmoe_module(description, sizes)
        case "vmoe_detector":
            return Detector(description.architecture, description.num_classes, description.switches)  # type: ignore[arg-type]
        case "nac":
            return _circuit(description, sizes)
        case _:
            config = cast(NACConfig, description.architecture)
            index = 0 if description.first else config.modules - 1 if description.last else 1
            width = cast(int, description.stitch_width)
            return build_nac_module(config, index, stitch_width=width, state_seed=CONSTANTS_SEED, **sizes)


def adapt(kind: str, checkpoint: Checkpoint, config: Mapping[str, Any], *, where: str, what: str) -> tuple[Description, dict[str, Tensor]]:
    """Describe a checkpoint and convert its tensors.

    Parameters
    ----------
    kind, config
        See :func:`m2mkd.upstream.load`; ``config`` overrides the file's own arguments.
    checkpoint
        Released tensors.
    where, what
        Names of the configuration and the checkpoint in errors.

    Raises
    ------
    InputError
        If the configuration is wrong, or the tensors do not match it.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"{where}: holds a {type(config).__name__}, but a mapping of names to values is needed")
    try:
        constants = {name: torch.as_tensor(config[name]).detach() for name in nac_names.MODULE_CONSTANTS if config.get(name) is not None}
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{where}: codes and states must be lists of lists of numbers ({error})") from None
    released = checkpoint.state | constants
    arguments = checkpoint.config | {name: value for name, value in config.items() if name not in nac_names.MODULE_CONSTANTS}
    description = describe_checkpoint(kind, arguments, {name: tuple(tensor.shape) for name, tensor in released.items()}, where)
    return description, convert(description, released, what)


def convert(description: Description, released: Mapping[str, Tensor], what: str = "checkpoint") -> dict[str, Tensor]:
    """Rename released tensors to the names of this package.

    Parameters
    ----------
    description
        Description of the network.
    released
        Tensors by their released names, plain: see :func:`~m2mkd.upstream.contents.unpack`.
    what
        Name of the state in errors.

    Returns
    -------
    dict
        Tensors, not copied, except that experts of one module each are stacked. A NAC's module has the ``codes`` (n, K) and the
        ``states`` (n, 1, D) of the released file or, as it usually holds none, a fixed random draw.

    Raises
    ------
    InputError
        If a tensor is missing, left over or of another shape.
    """
    if description.kind == "vit" and description.stage is not None:
        prefix = f"stages.{description.stage}."
        if all(name.startswith(prefix) for name in released):
            released = {name.removeprefix(prefix): tensor for name, tensor in released.items()}
        elif _holds_all_stages(description, released):
            converted = convert(replace(description, stage=None), released, what)
            return {name.removeprefix(prefix): tensor for name, tensor in converted.items() if name.startswith(prefix)}
    model = _laid_out(description, what)
    constants = {name: buffer for name, buffer in model.named_buffers() if name in nac_names.MODULE_CONSTANTS}
    given = {name: _constant(name, released[name], buffer, what) for name, buffer in constants.items() if name in released}
    wanted = {
        name: _sources(description, name, tuple(tensor.shape)) for name, tensor in model.state_dict().items() if name not in constants
    }
    return gather(wanted, {name: tensor for name, tensor in released.items() if name not in given}, what) | constants | given


def build_with_state(description: Description, state: Mapping[str, Tensor], what: str = "checkpoint") -> nn.Module:
    """Build the network with copies of the tensors of ``convert``, in evaluation mode; float64 if they are, otherwise float32.

    Raises
    ------
    InputError
        If the tensors do not match the description; ``what`` is their name in the error.
    """
    weights = (tensor for name, tensor in state.items() if name not in nac_names.MODULE_CONSTANTS)
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in weights) else torch.float32
    model = _laid_out(description, what)
    for name, buffer in list(model.named_buffers()):
        if name in nac_names.MODULE_CONSTANTS and name in state:  # their number may vary, for example one per image
            setattr(model, name, _constant(name, state[name], buffer, what))
    try:
        # Contiguous, so that neither speed nor bits depend on the memory layout of the file's tensors.
        own = {name: tensor.to(dtype, copy=True, memory_format=torch.contiguous_format) for name, tensor in state.items()}
        model.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise InputError(f"{what}: its tensors do not match its description ({error}); import it again") from None
    return model.eval()


def _laid_out(description: Description, what: str) -> nn.Module:
    """Build the network without memory for its weights."""
    try:
        with torch.device("meta"):
            return build(description)
    except (ValueError, RuntimeError, AssertionError, ArithmeticError, MemoryError) as error:
        raise InputError(f"{what}: a network of these sizes cannot be built ({error}); correct the configuration") from None


def _sources(description: Description, name: str, shape: tuple[int, ...]) -> tuple[Source, ...]:
    architecture = description.architecture
    if isinstance(architecture, DetectorConfig):
        return detector_names.sources(architecture, name, shape)
    if isinstance(architecture, NACConfig) and description.kind != "nac":
        return nac_names.nac_sources(name, shape, whole=False)
    if description.stage is not None:
        return vit_names.stage_sources(name, shape, cast(ViTConfig, architecture).depths[description.stage])
    return family_of(architecture).sources(architecture, f"stages.0.{name}" if description.kind == "vmoe_module" else name, shape)


def _vmoe_module(description: Description, sizes: dict[str, Any]) -> nn.Module:
    """Build the module inside a V-MoE with one block before and one after it, unless it is the first or the last."""
    config = cast(VMoEConfig, description.architecture)
    before, after = () if description.first else (1,), () if description.last else (1,)
    experts = tuple(position + len(before) for position in config.moe_positions)
    around = config.model_copy(update={"depths": (*before, *config.depths, *after), "moe_blocks": experts})
    return build_vmoe_module(around, len(before), stitch_width=cast(int, description.stitch_width), **sizes)


def _circuit(description: Description, sizes: dict[str, Any]) -> NAC:
    config = cast(NACConfig, description.architecture)
    circuit = NAC(config, prior=None, **sizes)  # the signatures come with the weights
    for name, heads, head_dim in description.layer_heads:
        layer = config.model_copy(update={"heads": heads, "head_dim": head_dim})
        if name == "read_in":
            circuit.read_in = ReadIn(layer, circuit.input_tokenizer.width)
        else:
            circuit.read_out = LatentLayer(layer, DotProductKernel(), read_out=True)
    if "seeder" in description.disabled_noise:
        circuit.latent_seeder.code_noise = 0.0
    if "edge" in description.disabled_noise:
        for propagator in circuit.propagators:
            propagator.latent_attention.kernel.temperature = None  # type: ignore[union-attr]
    circuit.output_tokenizer.gumbel = "gumbel" not in description.disabled_noise
    return circuit


def _holds_all_stages(description: Description, released: Mapping[str, Tensor]) -> bool:
    blocks = {name.split(".")[1] for name in released if name.startswith("blocks.")}
    depths = cast(ViTConfig, description.architecture).depths
    return any(name.startswith("stages.") for name in released) or (len(depths) > 1 and len(blocks) == sum(depths))


def _constant(name: str, given: Tensor, own: Tensor, what: str) -> Tensor:
    if given.dim() != own.dim() or given.shape[1:] != own.shape[1:]:
        expected = "x".join(("n", *map(str, own.shape[1:])))
        raise InputError(f"{what}: {name} has shape {tuple(given.shape)}, expected {expected} with any n")
    return given
