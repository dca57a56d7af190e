"""Cost of networks of a family that gives no formulas: torch counts what it does, without memory for it where that is possible."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from m2mkd.config.family import Architecture, Sizes
from m2mkd.config.registered_families import student_family
from m2mkd.errors import InputError
from m2mkd.planning.layer_cost import LayerCost, Tensors

if TYPE_CHECKING:
    from torch import Tensor, nn


def counted_student(config: Architecture, sizes: Sizes, stitch_width: int | None) -> LayerCost:
    """Cost of a whole student; see `counted_module`."""
    return _counted(type(config), config.model_dump_json(), sizes, None, stitch_width, 0)


def counted_module(config: Architecture, index: int, sizes: Sizes, *, stitch_width: int, tokens: int) -> LayerCost:
    """Cost of one module between its stitch layers.

    Products are those that torch counts for two images less those for one; what is left of one image is done once for a batch. All that
    is kept for the backward pass counts as float32, since only the trained precision would tell.

    Parameters
    ----------
    config, index, sizes, stitch_width
        See `m2mkd.config.family.StudentFamily.build_module`.
    tokens
        Tokens of the meta model.

    Raises
    ------
    InputError
        If the network cannot be built or run.
    """
    return _counted(type(config), config.model_dump_json(), sizes, index, stitch_width, tokens)


@cache
def _counted(cls: type[Architecture], fields: str, sizes: Sizes, index: int | None, stitch_width: int | None, tokens: int) -> LayerCost:
    import torch

    config = cls.model_validate_json(fields)
    family = student_family(config)

    def build() -> "nn.Module":
        how: dict[str, Any] = {**sizes._asdict(), "stitch_width": stitch_width, "drop_path": 0.0, "compat": {}}
        if index is None:
            return family.build(config, prior=None, graph_seed=0, **how)
        return family.build_module(config, index, state_seed=0, batch_size=1, **how)

    shape = (3, sizes.image_size, sizes.image_size) if index in (None, 0) else (tokens, stitch_width or 0)
    error: Exception | None = None
    for place in (torch.device("meta"), nullcontext()):
        try:
            return _cost_of(build, shape, place)
        except InputError:
            raise
        except Exception as found:  # a stranger's network may raise anything, and work that depends on values cannot run without them
            error = found
    what = "whole" if index is None else f"module {index}"
    raise InputError(
        f"family {family.name}: its {what} cannot be counted ({type(error).__name__}: {error}); mend it, or give the family a cost"
    ) from error


def _cost_of(build: "Callable[[], nn.Module]", shape: tuple[int, ...], place: AbstractContextManager[object]) -> LayerCost:
    import torch

    with torch.random.fork_rng(devices=[]), place:
        network = build().eval()
        one, two = (_macs(network, torch.zeros(images, *shape)) for images in (1, 2))
        kept, largest = _kept(network, torch.zeros(1, *shape))
    saved = Tensors(full=kept)
    return LayerCost(
        macs=two - one,
        batch_macs=2 * one - two,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        saved=saved,
        passed=saved,
        live=Tensors(full=2 * largest),
    )


def _macs(network: "nn.Module", images: "Tensor") -> int:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Attention by plain products, because the counter does not know the CPU's fused one.
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(images)
    return int(counter.get_total_flops()) // 2


def _kept(network: "nn.Module", images: "Tensor") -> tuple[int, int]:
    """Elements that one forward pass keeps for the backward pass, weights aside, and those of the largest tensor among them."""
    import torch

    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, tuple[object, int]] = {}

    def pack(tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (storage, storage.nbytes() // tensor.element_size())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    counts = [count for _, count in kept.values()]
    return sum(counts), max(counts, default=0)
