"""The processes that share one training, and what they tell each other."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process among those that share a training; each method must be called by all of them."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Self:
        """What torchrun says that this process is; without it, alone."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

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
        broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """What each rank has, in their order."""
        if self.count == 1:
            return [value]
        from torch.distributed import all_gather_object

        everyone: list[Any] = [None] * self.count
        all_gather_object(everyone, value)
        return everyone

    def all_reduce(self, values: "Tensor") -> "Tensor":
        """Sum over the ranks of a tensor on the CPU, which is overwritten."""
        if self.count > 1:
            from torch.distributed import all_reduce

            all_reduce(values)
        return values


ALONE = Ranks()
