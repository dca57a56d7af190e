"""What depends on parameters alone, kept from one forward pass to the next (specification nac.md 17.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps = 0


def _count_step(*_: object) -> None:
    # Fused optimisers do not raise the version of what they change.
    global _steps  # noqa: PLW0603
    _steps += 1


register_optimizer_step_post_hook(_count_step)


@dataclass(frozen=True)
class _Source:
    """A tensor as it was, by identity, storage and version; it never looks at the values, which would synchronise a device."""

    tensor: Tensor
    alias: Tensor
    version: int

    @staticmethod
    def of(tensor: Tensor) -> "_Source":
        # The alias keeps the storage, so that no later tensor can have its address.
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
    """Values of a function of parameters, kept while the parameters stay as they are.

    Values are kept only where no gradient can be asked for, that is under ``torch.no_grad`` or in inference mode. They are
    dropped at the first call with gradients, as in training, and are not used when a parameter has been replaced, moved,
    converted, loaded or changed in place, or any optimiser has made a step. The one change that goes unseen is by hand, in
    place, through ``parameter.data``, which PyTorch's own version counter does not count, with no call with gradients after
    it. A compiled graph and a transform of ``torch.func`` compute everything anew. A copy of a cache is empty.

    Parameters
    ----------
    size
        Number of values that are kept, for as many sets of parameters.
    """

    def __init__(self, size: int = 1):
        self.size = size
        self._entries: list[_Entry] = []

    def __reduce__(self) -> tuple[type["Cache"], tuple[int]]:
        return Cache, (self.size,)

    def __call__(self, compute: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """What ``compute`` returns, now or when it was last called with these sources unchanged.

        Parameters
        ----------
        compute
            Function of ``sources`` and of nothing else.
        sources
            Parameters, buffers, or values of another cache.
        """
        # Inside a transform of torch.func, whatever is computed is wrapped and of no use outside.
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
        # A tensor of inference mode has no version, and no use outside of it.
        with torch.inference_mode(mode=False), torch.no_grad():
            value = compute()
        if _plain(value):
            kept = _Entry(tuple(map(_Source.of, sources)), state, value)
            self._entries = [kept, *self._entries[: self.size - 1]]
        return value


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor has values and a version; that is, whether it is not a fake, a wrapper or a child of inference mode."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_meta and not tensor.is_inference()
