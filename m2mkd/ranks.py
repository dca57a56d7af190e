"""Processes that share one training, and their communication."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from m2mkd.errors import InputError
from m2mkd.signals import heeding

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


FIX = "unset RANK and WORLD_SIZE, or let torchrun set them"


def started_by_launcher() -> bool:
    """True if torchrun or another launcher started this process.

    Raises
    ------
    InputError
        If the environment names several processes, but not the rank of this one.
    """
    given = [name for name in ("RANK", "WORLD_SIZE") if os.environ.get(name, "").strip()]
    if given == ["WORLD_SIZE"] and _number("WORLD_SIZE") != 1:
        raise InputError(f"WORLD_SIZE {os.environ['WORLD_SIZE']}: RANK is missing, so the rank of this process is unknown; {FIX}")
    return len(given) == 2


def _number(name: str) -> int:
    text = os.environ[name].strip()
    if not text.isascii() or not text.isdigit() or (name == "WORLD_SIZE" and int(text) == 0):
        raise InputError(f"{name} {text!r}: not a number of processes; {FIX}")
    return int(text)


@dataclass(frozen=True)
class Ranks:
    """Process among those that share a training; each method must be called by all of them."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Self:
        """Ranks as torchrun set them in the environment; a single process without torchrun.

        A single variable left by another program, such as a scheduler's ``RANK``, is ignored.

        Raises
        ------
        InputError
            If the variables contradict each other.
        """
        if not started_by_launcher():
            return cls()
        rank, count = (_number(name) for name in ("RANK", "WORLD_SIZE"))
        if rank >= count:
            raise InputError(f"RANK {rank}: not below WORLD_SIZE {count}; {FIX}")
        for name in ("MASTER_ADDR", "MASTER_PORT") if count > 1 else ():
            if not os.environ.get(name):
                raise InputError(f"WORLD_SIZE {count}: {name} is missing, so the processes cannot meet; {FIX}")
        return cls(rank, count)

    @property
    def is_main(self) -> bool:
        """True if this is the one process that writes."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Value of rank 0."""
        if self.count == 1:
            return value
        from torch.distributed import broadcast_object_list

        box = [value]
        heeding(lambda: broadcast_object_list(box, src=0))
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """Values of all ranks, in the order of the ranks."""
        if self.count == 1:
            return [value]
        from torch.distributed import all_gather_object

        everyone: list[Any] = [None] * self.count
        heeding(lambda: all_gather_object(everyone, value))
        return everyone

    def all_reduce(self, values: "Tensor") -> "Tensor":
        """Sum over the ranks of a tensor on the CPU, which is overwritten."""
        if self.count > 1:
            from torch.distributed import all_reduce

            all_reduce(values)
        return values


ALONE = Ranks()
