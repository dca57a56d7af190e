"""Moving average of the weights, if a recipe asks for one: it is measured and published instead of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class Average:
    """Exponential moving average of all tensors of a module, starting from their values at construction.

    Parameters
    ----------
    module
        The module that trains.
    decay
        Share of the average that is kept at every update, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float):
        self._module, self._average = module, ModelEmaV3(module, decay)

    def update(self) -> None:
        """Update the average; call this after every update of the module."""
        self._average.update(self._module)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the module has the average's weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        averaged = self._average.module.state_dict()
        for name, tensor in self._module.state_dict().items():
            trained = tensor.clone()
            tensor.copy_(averaged[name])
            averaged[name].copy_(trained)

    def publish(self) -> None:
        """Replace the module's weights by the average permanently."""
        self._module.load_state_dict(self._average.module.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """The average."""
        return self._average.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a saved average."""
        self._average.module.load_state_dict(state)
