"""Watching a training for what should not happen: a loss that is no number, one that leaps, experts that nobody asks, too little memory."""

import contextlib
import statistics
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from m2mkd.errors import InputError
from m2mkd.evaluation.plateau import SHORTEST_PLATEAU, plateau
from m2mkd.models.moe import MoE
from m2mkd.ranks import Ranks

WINDOW = 50
"""Updates whose losses say what is usual."""
LEAP = 3.0
"""A loss so many times the median of the last ones is a leap."""
SHORTAGES = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""What a RuntimeError says of too little memory, where torch has no error of its own for it."""
LOADER_DIED = "DataLoader worker (pid"
"""How a RuntimeError begins where a process that loads data was killed."""


class LossWatch:
    """Tells a loss that leaps from those before it."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def leaps_from(self, loss: float) -> float | None:
        """The usual loss, if this one is a leap from it; the same leap is told once."""
        usual = statistics.median(self._last) if len(self._last) == WINDOW else None
        self._last.append(loss)
        if usual is None or not loss > LEAP * usual > 0:
            return None
        self._last.clear()
        return usual


class ChanceWatch:
    """Tells a training that stays at chance."""

    def __init__(self) -> None:
        self._measured: list[tuple[int, float]] = []
        self._told = False

    def stays_since(self, epoch: int, top1: float, images: int, classes: int) -> int | None:
        """The epoch since which every measurement is at chance, when the one after ``epoch`` makes a plateau; of one it is told once."""
        self._measured = [*self._measured, (epoch, top1)][-SHORTEST_PLATEAU:]
        found = plateau(self._measured, images, classes)
        news, self._told = found is not None and not self._told, found is not None
        return found.first if found and news else None


class ExpertWatch:
    """Counts what the experts of a network compute in an epoch."""

    def __init__(self, network: nn.Module):
        self._layers = {name: module for name, module in network.named_modules() if isinstance(module, MoE)}
        self._counts: dict[str, Tensor] | None = None

    def begin(self) -> None:
        """Count from here; before, and after `idle`, nothing is counted."""
        self._counts = {}

    def saw(self) -> None:
        """Count what the last call of each layer computed."""
        if self._counts is not None:
            for name, layer in self._layers.items():
                if layer.tokens_per_expert is not None:
                    self._counts[name] = layer.tokens_per_expert + self._counts.get(name, 0)

    def idle(self, ranks: Ranks) -> list[str]:
        """Experts without a single token, by layer; none if the beginning was not seen."""
        counts, self._counts = self._counts, None
        totals = {name: ranks.all_reduce(count.cpu()) for name, count in (counts or {}).items()}
        return [f"{name}: expert {expert}" for name, total in totals.items() for expert in (total == 0).nonzero().flatten().tolist()]


@contextlib.contextmanager
def memory_explained(explain: Callable[[], str]) -> Iterator[None]:
    """Say in one line what did not fit.

    Raises
    ------
    InputError
        With what ``explain`` gives, if the memory ran out; or if a process that loads data died of it.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if str(error).startswith(LOADER_DIED):
            fix = "lower --workers, or give it more; in a container that may be shared memory"
            raise InputError(f"a process that loads data has died, as where memory is short; {fix} ({error})") from error
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(words in str(error) for words in SHORTAGES):
            raise
        raise InputError(explain()) from error


def out_of_memory(title: str, images: int, device: torch.device, planned: int) -> str:
    """What did not fit, what was expected, and the fix.

    Parameters
    ----------
    title
        What is trained.
    images
        Number of them on the device at a time.
    device
        Where.
    planned
        Bytes that were expected to be needed.
    """
    used = f", {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB in use at most" if device.type == "cuda" else ""
    fix = f"--device-batch {max(2, images // 4 * 2)}" if images > 2 else "a device with more"
    return f"{title}: out of memory with {images} images at a time on {device}{used}; the plan is {planned / 1e9:.1f} GB; try {fix}"
