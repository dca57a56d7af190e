"""Registration of the models with timm: after ``import m2mkd.models.registry``, ``timm.create_model("vmoe_base_patch16_224")`` works.

Sizes are those of `m2mkd.config.published`. In addition to timm's own arguments (``num_classes``, ``img_size``, ``drop_path_rate``,
``global_pool``, ``features_only``, ``out_indices``), a model takes any field of its architecture, such as ``moe_blocks="every_2"``,
and arguments of its class, such as ``stitch_width=1024`` for a V-MoE with ``stitch="kept"``, or ``prior="scale_free"`` for a NAC.

Nothing is downloaded. A checkpoint of the authors or of this suite is given as a file:
``timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": "vmoe_base.pth"})``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, register_notrace_module
from timm.models._builder import resolve_pretrained_cfg
from torch import Tensor

from m2mkd.config.family import Architecture, Sizes
from m2mkd.config.published import published
from m2mkd.config.registered_families import family_of
from m2mkd.errors import InputError
from m2mkd.models.moe import MoE
from m2mkd.models.names import renamed
from m2mkd.models.staged import StagedTransformer
from m2mkd.models.timm_nac import TimmNAC

Network = StagedTransformer | TimmNAC
# The experts' tokens are counted, which no graph of torch.fx can do.
register_notrace_module(MoE)


class Registered(NamedTuple):
    """Description of a registered name."""

    architecture: str
    """Name in ``config/models.yaml``."""
    image_size: int = 224
    """Side of the images in pixels, unless ``img_size`` is given."""
    num_classes: int = 1000
    """Classes, unless ``num_classes`` is given."""


REGISTERED = {
    "vmoe_small_patch16_224": Registered("vmoe_small"),
    "vmoe_base_patch16_224": Registered("vmoe_base"),
    "staged_deit_base_patch16_224": Registered("deit_base"),
    "staged_deit_large_patch16_224": Registered("deit_large"),
    "staged_deit_huge_patch14_224": Registered("deit_huge"),
    "staged_meta_base_patch16_224": Registered("meta_base"),
    "staged_meta_large_patch16_224": Registered("meta_large"),
    "staged_meta_huge_patch14_224": Registered("meta_huge"),
    "nac_tiny_imagenet_64": Registered("nac_tiny_imagenet", image_size=64, num_classes=200),
    "nac_imagenet_224": Registered("nac_imagenet"),
}


def _data_config(registered: Registered) -> dict[str, Any]:
    return {
        "input_size": (3, registered.image_size, registered.image_size),
        "fixed_input_size": True,
        "num_classes": registered.num_classes,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }


default_cfgs = generate_default_cfgs({name: _data_config(registered) for name, registered in REGISTERED.items()})


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: Network) -> dict[str, Tensor]:
    """Convert a state dict for a model, from its own names or the released ones.

    Parameters
    ----------
    state
        Tensors by name. A ViT also accepts those of timm's ``VisionTransformer``.
    model
        Network that they are for. Positions for another image size are interpolated.

    Raises
    ------
    InputError
        If no name is known.
    """
    config: Any = model.config
    ours = renamed(config, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, state)
    name = "stages.0.pos_embed"
    if name in ours and ours[name].shape != model.get_parameter(name).shape:
        ours[name] = resample_abs_pos_embed(ours[name], model.get_submodule("stages.0.patch_embed").grid_size)
    return ours


def _create(name: str, pretrained: bool, pretrained_cfg_overlay: dict[str, Any] | None = None, **arguments: Any) -> Any:
    if pretrained:
        source = resolve_pretrained_cfg(name, arguments.get("pretrained_cfg"), pretrained_cfg_overlay)
        if not (source.has_weights or source.state_dict):
            raise InputError(
                f"{name}: there are no weights to download; create it with pretrained=False, or give a checkpoint with "
                "pretrained_cfg_overlay={'file': FILE}"
            )
    architecture = REGISTERED[name].architecture
    changes = {field: arguments.pop(field) for field in type(published(architecture)).model_fields if field in arguments}
    config = published(architecture, **changes)
    family = family_of(config)
    if arguments.get("features_only") and not family.HAS_STAGES:
        raise InputError(f"{name}: features_only needs feature maps, but a {family.LABEL} has latents; use forward_features")
    first, last = family.first_and_last(config)
    parts = {"first_conv": first, "classifier": last}
    device, dtype = arguments.pop("device", None), arguments.pop("dtype", None)
    place: Any = nullcontext() if device is None else torch.device(device)
    with place:
        network = build_model_with_cfg(
            partial(_build, config),
            name,
            pretrained,
            pretrained_cfg_overlay=parts | (pretrained_cfg_overlay or {}),
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **arguments,
        )
    return network if dtype is None else network.to(dtype)


def _build(
    config: Architecture,
    *,
    num_classes: int,
    img_size: int | Sequence[int],
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    global_pool: str | None = None,
    **arguments: Any,
) -> Network:
    """Build the network from timm's arguments; ``arguments`` go to its class."""
    sides = {img_size} if isinstance(img_size, int) else set(img_size)
    if len(sides) != 1:
        raise InputError(f"img_size {tuple(img_size)} is not square; give one side in pixels")  # type: ignore[arg-type]
    if in_chans != 3:
        raise InputError(f"in_chans {in_chans}: these networks take images of 3 channels; repeat or reduce the channels")
    if drop_rate:
        raise InputError(f"drop_rate {drop_rate}: these networks have no dropout; use drop_path_rate")
    network: Network = family_of(config).timm_network(config, Sizes(sides.pop(), num_classes), drop_path_rate, **arguments)  # type: ignore[assignment]
    if global_pool is not None:
        network.reset_classifier(num_classes, global_pool)
    return network


def _entry_point(name: str) -> Callable[..., Any]:
    """Function by which timm makes a model; timm reads its name."""

    def create(pretrained: bool = False, **arguments: Any) -> Any:
        return _create(name, pretrained, **arguments)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{REGISTERED[name].architecture} of config/models.yaml; see the module for its arguments."
    return create


globals().update({name: register_model(_entry_point(name)) for name in REGISTERED})
