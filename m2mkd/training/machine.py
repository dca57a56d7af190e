"""Where a job runs; nothing in here may change a result on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """The device of a job, and the processes that load data beside it."""

    device: "torch.device"
    workers: int = 0


def machine_for(device: str, workers: int, threads: int) -> Callable[[], Machine]:
    """What prepares torch and gives the machine when it is first needed, so that a job without tensors never loads torch.

    Raises
    ------
    InputError
        When called, if the device is not there.
    """

    def prepare() -> Machine:
        from m2mkd.training.device import choose_device, prepare_torch

        prepare_torch(threads)
        return Machine(choose_device(device), workers)

    return prepare
