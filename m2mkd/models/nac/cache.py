"""Cache of values that depend on parameters alone, kept from one forward pass to the next (specification nac.md 17.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps = 0


def _count_step(*_: object) -> None:
    # Fused optimisers do not increase the version of the tensors that they change.
    global _steps  # noqa: PLW0603
    _steps += 1


register_optimizer_step_post_hook(_count_step)


@dataclass(frozen=True)
class _Source:
    """Identity, storage and version of a tensor; the values are never read, which would synchronise a device."""

    tensor: Tensor
    alias: Tensor
    version: int

    @staticmethod
    def of(tensor: Tensor) -> "_Source":
        # The alias keeps the storage alive, so that no later tensor can have its address.
        return _Source(tensor, tensor.detach(), tensor._version)

    def unchanged(self, tensor: Tensor) -> bool:
        same = self.tensor is tensor and self.version == tensor._version
        return same and self.alias.dtype == tensor.dtype and self.alias.data_ptr() == tensor.data_ptr()


@dataclass(frozen=True)
class _Entry:
    sources: tuple[_Source, ...]
    state: tuple[object, ...]
    value: Tensor


class Cache:
    """Cache for a function of parameters, valid while the parameters do not change.

    Values are kept only if no gradient can be needed, that is, under ``torch.no_grad`` or in inference mode. They are
    dropped at the first call with gradients, as in training, and are not used after a parameter has been replaced, moved,
    converted, loaded or changed in place, or any optimiser has made a step. The only undetected change is one in place
    through ``parameter.data``, which PyTorch's version counter does not count, if no call with gradients follows.
    A compiled graph and a transform of ``torch.func`` recompute everything. A copy of a cache is empty.

    Parameters
    ----------
    size
        Number of values to keep, for as many sets of parameters.
    """

    def __init__(self, size: int = 1):
        self.size = size
        self._entries: list[_Entry] = []

    def __reduce__(self) -> tuple[type["Cache"], tuple[int]]:
        return Cache, (self.size,)

    def __call__(self, compute: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """Return the value of ``compute``, cached if its sources are unchanged since the last call.

        Parameters
        ----------
        compute
            Function of ``sources`` and of nothing else.
        sources
            Parameters, buffers, or values of another cache.
        """
        # Inside a transform of torch.func, values are wrapped and useless outside of it.
        if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
            return compute()
        if torch.is_grad_enabled():
            self._entries.clear()
            return compute()
        if not all(map(_plain, sources)):
            return compute()
        device = sources[0].device.type
        state = _steps, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        for entry in self._entries:
            if entry.state == state and all(map(_Source.unchanged, entry.sources, sources)):
                return entry.value
        # An inference-mode tensor has no version, and is useless outside of that mode.
        with torch.inference_mode(mode=False), torch.no_grad():
            value = compute()
        if _plain(value):
            kept = _Entry(tuple(map(_Source.of, sources)), state, value)
            self._entries = [kept, *self._entries[: self.size - 1]]
        return value


def _plain(tensor: Tensor) -> bool:
    """True if a tensor has values and a version; that is, if it is not a fake, a wrapper or created in inference mode."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_meta and not tensor.is_inference()
