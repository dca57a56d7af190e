"""Distilled modules into a whole NAC (specification nac.md 15)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from m2mkd.distill.transfer import check_indices
from m2mkd.errors import InputError
from m2mkd.models.nac.circuit import NAC

DROPPED = ("pre_stitch.", "post_stitch.", "codes", "states")
UNTRAINED = ("input_latents.", "mediator_latents.", "output_latents.", "latent_seeder.")
GEOMETRY = ("input_tokenizer.positional_grid", "output_tokenizer.")
"""Tensors whose shape or meaning depends on image size and classes."""
SCORER = ("output_tokenizer.confidence_scorer.",)
"""Loaded as released, though the module, which pools a single latent, cannot train it: it only decays (nac.md finding 21)."""


def _prefixes(index: int, modules: int) -> dict[str, str]:
    """Prefixes in the circuit of the parts of one module."""
    if index == 0:
        return {"tokenizer.": "input_tokenizer.", "read_in.": "read_in."}
    if index == modules - 1:
        return {"layer.": "read_out.", "tokenizer.": "output_tokenizer."}
    return {"layer.": f"propagators.{index - 1}."}


def _circuit_names(index: int, modules: int, module: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one module by their name in the circuit, without what only the module alone has."""
    renamed = {}
    prefixes = _prefixes(index, modules)
    for name, tensor in module.items():
        if name.startswith(DROPPED):
            continue
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            raise InputError(f"module {index}: tensor {name} is of no layer of a NAC; is this the module of another index?")
        renamed[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    return renamed


def transfer_modules(
    nac: NAC,
    modules: Sequence[Mapping[str, Tensor]],
    *,
    same_geometry: bool,
    scorer: Literal["loaded", "fresh"] = "loaded",
    only: Sequence[int] | None = None,
) -> list[str]:
    """Copy distilled modules into a circuit, in place.

    What a module has for itself alone - stitch layers, code and state - is dropped.

    Parameters
    ----------
    nac
        Circuit with L propagators, initialised.
    modules
        State dicts of the L + 2 modules: read-in, mediators, read-out; or of those in ``only``, in its order.
    same_geometry
        Whether the modules were distilled at the circuit's image size and classes. Otherwise the positional grid and the
        pooling head stay as they are too.
    scorer
        Whether the pooling's confidence scorer is ``loaded`` with the head or stays ``fresh``.
    only
        Numbers of the modules that are loaded, which for mediators is layer by layer; the parts of the others stay as they are.
        None: all.

    Returns
    -------
    list of str
        Names of the tensors left at their initialisation: signatures, codes, seeder and bandwidths, and those of
        ``same_geometry``, ``scorer`` and ``only``.

    Raises
    ------
    InputError
        If a module, a tensor or a shape does not fit; the circuit is then unchanged.
    """
    own = nac.state_dict()
    count = nac.config.modules
    indices = range(count) if only is None else only
    chosen = check_indices(indices, count)
    if len(modules) != len(indices):
        of = f"a NAC with {nac.config.iterations} iterations has {count}" if only is None else f"modules {list(only)} are to be loaded"
        raise InputError(f"{len(modules)} modules given, but {of}")

    loaded: dict[str, Tensor] = {}
    for index, module in zip(indices, modules, strict=True):
        loaded |= _circuit_names(index, count, module)
    absent = tuple(prefix for index in range(count) if index not in chosen for prefix in _prefixes(index, count).values())
    skipped = (() if same_geometry else GEOMETRY) + (SCORER if scorer == "fresh" else ()) + absent
    loaded = {name: tensor for name, tensor in loaded.items() if not name.startswith(skipped)}

    for name, tensor in loaded.items():
        if name not in own:
            raise InputError(f"the modules hold {name}, which the NAC lacks; distill modules of the same architecture")
        if tensor.shape != own[name].shape:
            shapes = f"the module has shape {tuple(tensor.shape)}, the NAC {tuple(own[name].shape)}"
            raise InputError(f"{name}: {shapes}; distill modules of the same sizes")

    left = [name for name in own if name not in loaded]
    expected = {name for name in own if name.startswith(UNTRAINED + skipped) or name.endswith(".kernel.bandwidth")}
    if wrong := sorted(expected.symmetric_difference(left)):
        fault = "lack" if wrong[0] in left else "hold"
        shape = tuple(own[wrong[0]].shape)
        raise InputError(f"the modules {fault} {wrong[0]} of shape {shape} ({len(wrong)} such tensors); distill them anew")

    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)
    return left
