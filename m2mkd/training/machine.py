"""Machine of a job; nothing here may change a result on one CPU."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2mkd.errors import InputError
from m2mkd.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Policy:
    """Policy for writing checkpoints, in addition to the best validation so far, the end of a training, and a signal to stop."""

    minutes: float = 5.0
    """Minutes between two checkpoints."""
    updates: int | None = None
    """Updates between two checkpoints; None: only time decides."""


@dataclass(frozen=True)
class Machine:
    """Device of a job, and the processes that share the work."""

    device: "torch.device"
    workers: int = 0
    """Number of data-loading workers."""
    ranks: Ranks = ALONE
    """Processes that share a training, each on its own device."""
    device_batch: int | None = None
    """Maximum images that a device trains on at a time; None: its share of the batch."""
    compiled: bool = False
    """True if networks are compiled by torch.compile."""
    checkpoints: Policy = Policy()

    def accumulation(self, batch: int, together: int = 2) -> int:
        """Number of parts in which each rank processes its share of a global batch; see the function of the same name."""
        return accumulation(batch, self.ranks.count, self.device_batch, together)


def accumulation(batch: int, ranks: int, device_batch: int | None, together: int = 2) -> int:
    """Smallest number of parts of each rank's share with few enough images, each a multiple of ``together`` so that mixup pairs stay whole.

    Raises
    ------
    InputError
        If the batch cannot be divided among the ranks, or must be divided but is odd although pairs must stay whole.
    """
    evenly = "into parts of even size" if together == 2 else "into equal parts"
    if ranks > 1 and batch % (together * ranks):
        fits = max(count for count in range(1, ranks) if batch % (together * count) == 0)
        raise InputError(f"batch_size {batch}: cannot be divided among {ranks} ranks {evenly}; use --ranks {fits}")
    most = max(together, device_batch or batch)
    if ranks == 1 and batch <= most:
        return 1
    if batch % together:
        raise InputError(f"a batch of {batch} images is odd, and cannot be divided {evenly}; use --device-batch {batch}")
    return next(parts for parts in range(1, batch + 1) if batch % (together * ranks * parts) == 0 and batch <= most * ranks * parts)


def machine_for(
    device: str, threads: int, workers: int = 0, *, ranks: Ranks = ALONE, **options: int | bool | Policy | None
) -> Callable[[], Machine]:
    """Function that prepares torch and returns the machine at its first call, so that a job without tensors never loads torch.

    Parameters
    ----------
    device
        See `m2mkd.training.device.choose_device`.
    threads
        CPU threads of this process.
    workers, ranks, **options
        See `Machine`.

    Raises
    ------
    InputError
        At the call, if the device does not exist, or does not support what is asked.
    """

    @functools.cache
    def prepare() -> Machine:
        from m2mkd.training.device import choose_device, join, prepare_torch

        prepare_torch(threads)
        machine = Machine(choose_device(device, ranks), workers, ranks, **options)  # type: ignore[arg-type]
        if machine.compiled and machine.device.type == "cpu":
            raise InputError("--compile: only for GPUs; on a CPU it gains nothing and changes the last bit of every sum")
        join(machine.device, ranks)
        return machine

    return prepare
