"""Where a job runs; nothing in here may change a result on one CPU."""

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
    """When a checkpoint is written, beside the best validation so far, the end of a training, and a signal to stop."""

    minutes: float = 5.0
    """Time between two of them."""
    updates: int | None = None
    """Updates between two of them; none: time alone decides."""


@dataclass(frozen=True)
class Machine:
    """The device of a job, and the processes beside it."""

    device: "torch.device"
    workers: int = 0
    """Processes that load data."""
    ranks: Ranks = ALONE
    """Processes that share a training, each with a device of its own."""
    device_batch: int | None = None
    """Most images that a device trains on at a time; none: its share of the batch."""
    compiled: bool = False
    """Whether networks go through torch.compile."""
    checkpoints: Policy = Policy()

    def accumulation(self, batch: int, together: int = 2) -> int:
        """Parts in which each rank goes through its share of a global batch; see the function of that name."""
        return accumulation(batch, self.ranks.count, self.device_batch, together)


def accumulation(batch: int, ranks: int, device_batch: int | None, together: int = 2) -> int:
    """Fewest parts of each rank's share that are few enough images, and a multiple of ``together``, by which pairs of mixup stay whole.

    Raises
    ------
    InputError
        If the batch cannot be divided among the ranks, or has to be divided and is odd where pairs must stay whole.
    """
    evenly = "in parts of an even number" if together == 2 else "in equal parts"
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
    """What prepares torch and gives the machine when it is first needed, so that a job without tensors never loads torch.

    Parameters
    ----------
    device
        See `m2mkd.training.device.choose_device`.
    threads
        CPU threads of this process.
    workers, ranks, **options
        As of `Machine`.

    Raises
    ------
    InputError
        When called, if the device is not there, or cannot do what is asked.
    """

    @functools.cache
    def prepare() -> Machine:
        from m2mkd.training.device import choose_device, join, prepare_torch

        prepare_torch(threads)
        machine = Machine(choose_device(device, ranks), workers, ranks, **options)  # type: ignore[arg-type]
        if machine.compiled and machine.device.type == "cpu":
            raise InputError("--compile: is for GPUs; on a CPU it gains nothing and changes the last bit of every sum")
        join(machine.device, ranks)
        return machine

    return prepare
