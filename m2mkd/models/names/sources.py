"""Gathering of released tensors into ours; every released tensor is accounted for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2mkd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Form in which a released file may hold a tensor: as one, or in pieces that are joined along the first axis."""

    names: tuple[str, ...]
    """Released names of the pieces."""
    shape: tuple[int, ...]
    """Shape of each piece."""


def gather(wanted: Mapping[str, Sequence[Source]], released: Mapping[str, "Tensor"], what: str) -> dict[str, "Tensor"]:
    """Find each wanted tensor in a released state.

    Parameters
    ----------
    wanted
        Possible sources of each tensor, by our name. The first one in the state is used; a tensor may also be there under
        several names.
    released
        Tensors by their released names.
    what
        Name of the state in errors.

    Returns
    -------
    dict
        Tensors by our names, not copied unless they were in pieces.

    Raises
    ------
    InputError
        If a tensor is missing, left over or of another shape; names the first one and its expected shape.
    """
    chosen = {name: next((way for way in ways if not released.keys().isdisjoint(way.names)), ways[0]) for name, ways in wanted.items()}
    if missing := [(piece, way.shape) for way in chosen.values() for piece in way.names if piece not in released]:
        name, shape = missing[0]
        raise InputError(f"{what} lacks {name} of shape {shape}{_more(missing)}; correct the kind or the configuration")
    for way in chosen.values():
        for name in way.names:
            if tuple(released[name].shape) != way.shape:
                found = tuple(released[name].shape)
                raise InputError(f"{what}: {name} has shape {found}, expected {way.shape}; give the configuration of the file")
    known = {name for ways in wanted.values() for way in ways for name in way.names}
    if surplus := [name for name in released if name not in known]:
        shape = tuple(released[surplus[0]].shape)
        raise InputError(
            f"{what} has {surplus[0]} of shape {shape}{_more(surplus)}, expected none of that name; correct kind or configuration"
        )
    return {name: _joined(way, released) for name, way in chosen.items()}


def rename(wanted: Mapping[str, Sequence[Source]], released: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Wanted tensors that exist, with any shapes, and unknown tensors under their own names."""
    chosen = {name: next((way for way in ways if released.keys() >= set(way.names)), None) for name, ways in wanted.items()}
    known = {name for ways in wanted.values() for way in ways for name in way.names}
    unknown = {name: tensor for name, tensor in released.items() if name not in known}
    return unknown | {name: _joined(way, released) for name, way in chosen.items() if way is not None}


def _joined(way: Source, released: Mapping[str, "Tensor"]) -> "Tensor":
    import torch

    return released[way.names[0]] if len(way.names) == 1 else torch.cat([released[piece] for piece in way.names])


def _more(names: Sequence[object]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
