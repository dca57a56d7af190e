"""Names of tensors: those of this package, and those of released files (specifications nac.md 12, vmoe.md 3)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from m2mkd.config.family import Architecture
from m2mkd.config.registered_families import family_of
from m2mkd.errors import InputError
from m2mkd.models.names.sources import Source, rename

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


def renamed(config: Architecture, shapes: Mapping[str, Shape], released: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Tensors of a whole network under its own names, from released or own names, with any shapes.

    Missing and surplus tensors are left to the caller that loads the state.

    Parameters
    ----------
    config
        Architecture of the network.
    shapes
        Shapes of its tensors, by its names.
    released
        Tensors by released or own names.

    Raises
    ------
    InputError
        If no name is known.
    """
    wanted = {name: (*family_of(config).sources(config, name, shape), Source((name,), shape)) for name, shape in shapes.items()}
    state = rename(wanted, released)
    if shapes.keys().isdisjoint(state):
        raise InputError(f"state dict has {next(iter(released), 'nothing')}, but no tensor of a {config.family}; give its state dict")
    return state
