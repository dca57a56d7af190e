"""Watches on a training: non-finite losses, loss spikes, unused experts, accuracy at chance, and too little memory."""

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
"""Number of recent losses that define the usual loss."""
LEAP = 3.0
"""Ratio to the median of the recent losses above which a loss is a spike."""
SHORTAGES = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""Texts of a RuntimeError about too little memory, for which torch has no exception of its own."""
LOADER_DIED = "DataLoader worker (pid"
"""Beginning of a RuntimeError after a data-loading worker was killed."""


class LossWatch:
    """Watch for loss spikes."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def leaps_from(self, loss: float) -> float | None:
        """Usual loss if this loss is a spike, else None; each spike is reported once."""
        usual = statistics.median(self._last) if len(self._last) == WINDOW else None
        self._last.append(loss)
        if usual is None or not loss > LEAP * usual > 0:
            return None
        self._last.clear()
        return usual


class ChanceWatch:
    """Watch for a training that stays at chance."""

    def __init__(self) -> None:
        self._measured: list[tuple[int, float]] = []
        self._told = False

    def stays_since(self, epoch: int, top1: float, images: int, classes: int) -> int | None:
        """First epoch of a plateau at chance if the measurement after ``epoch`` completes one; each plateau is reported once."""
        self._measured = [*self._measured, (epoch, top1)][-SHORTEST_PLATEAU:]
        found = plateau(self._measured, images, classes)
        news, self._told = found is not None and not self._told, found is not None
        return found.first if found and news else None


class ExpertWatch:
    """Counter of the tokens that a network's experts compute in an epoch."""

    def __init__(self, network: nn.Module):
        self._layers = {name: module for name, module in network.named_modules() if isinstance(module, MoE)}
        self._counts: dict[str, Tensor] | None = None

    def begin(self) -> None:
        """Start counting; before this call, and after `idle`, nothing is counted."""
        self._counts = {}

    def saw(self) -> None:
        """Count the tokens of the last call of each layer."""
        if self._counts is not None:
            for name, layer in self._layers.items():
                if layer.tokens_per_expert is not None:
                    self._counts[name] = layer.tokens_per_expert + self._counts.get(name, 0)

    def idle(self, ranks: Ranks) -> list[str]:
        """Experts without a single token, by layer; none if counting did not start at the beginning of the epoch."""
        counts, self._counts = self._counts, None
        totals = {name: ranks.all_reduce(count.cpu()) for name, count in (counts or {}).items()}
        return [f"{name}: expert {expert}" for name, total in totals.items() for expert in (total == 0).nonzero().flatten().tolist()]


@contextlib.contextmanager
def memory_explained(explain: Callable[[], str]) -> Iterator[None]:
    """Report in one line what did not fit into memory.

    Raises
    ------
    InputError
        With the text of ``explain`` if memory ran out; or if a data-loading worker died because of it.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if str(error).startswith(LOADER_DIED):
            fix = "lower --workers, or give more memory (in a container: shared memory)"
            raise InputError(f"a data-loading worker has died, probably from lack of memory; {fix} ({error})") from error
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(words in str(error) for words in SHORTAGES):
            raise
        raise InputError(explain()) from error


def out_of_memory(title: str, images: int, device: torch.device, planned: int) -> str:
    """Error message: what did not fit, the planned memory, and the fix.

    Parameters
    ----------
    title
        Title of the training.
    images
        Number of images on the device at a time.
    device
        Device that ran out of memory.
    planned
        Planned bytes.
    """
    used = f", {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB in use at most" if device.type == "cuda" else ""
    fix = f"--device-batch {max(2, images // 4 * 2)}" if images > 2 else "a device with more"
    return f"{title}: out of memory with {images} images at a time on {device}{used}; the plan is {planned / 1e9:.1f} GB; try {fix}"
