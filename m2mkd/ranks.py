"""The processes that share one training, and what they tell each other."""

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
    """Whether torchrun, or another launcher, started this process.

    Raises
    ------
    InputError
        If the environment says that there are several, but not which this is.
    """
    given = [name for name in ("RANK", "WORLD_SIZE") if os.environ.get(name, "").strip()]
    if given == ["WORLD_SIZE"] and _number("WORLD_SIZE") != 1:
        raise InputError(f"WORLD_SIZE {os.environ['WORLD_SIZE']}: there is no RANK to say which of them this process is; {FIX}")
    return len(given) == 2


def _number(name: str) -> int:
    text = os.environ[name].strip()
    if not text.isascii() or not text.isdigit() or (name == "WORLD_SIZE" and int(text) == 0):
        raise InputError(f"{name} {text!r}: is not a number of processes; {FIX}")
    return int(text)


@dataclass(frozen=True)
class Ranks:
    """One process among those that share a training; each method must be called by all of them."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Self:
        """What torchrun says that this process is; without it, alone.

        A number alone that others left in the environment, such as a scheduler's ``RANK``, says nothing.

        Raises
        ------
        InputError
            If the variables contradict each other.
        """
        if not started_by_launcher():
            return cls()
        rank, count = (_number(name) for name in ("RANK", "WORLD_SIZE"))
        if rank >= count:
            raise InputError(f"RANK {rank}: is not below WORLD_SIZE {count}; {FIX}")
        for name in ("MASTER_ADDR", "MASTER_PORT") if count > 1 else ():
            if not os.environ.get(name):
                raise InputError(f"WORLD_SIZE {count}: {name} does not say where to meet; {FIX}")
        return cls(rank, count)

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """What rank 0 has."""
        if self.count == 1:
            return value
        from torch.distributed import broadcast_object_list

        box = [value]
        heeding(lambda: broadcast_object_list(box, src=0))
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """What each rank has, in their order."""
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
