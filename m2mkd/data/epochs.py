"""Epochs of a stream that worker processes prepare, of which one runs at a time and may be begun anywhere."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from m2mkd.data.draws import Draw, Order
from m2mkd.data.loading import refused_in_one_line
from m2mkd.signals import leave_to_parent

T = TypeVar("T")
Made = TypeVar("Made")


def as_it_is(batch: T) -> T:
    """What a loader is to do with a batch that is whole already."""
    return batch


class Epochs(Generic[T]):
    """What a data set makes of the draws of each epoch.

    Parameters
    ----------
    made
        Makes a batch of a draw, in any process.
    draws
        Of an epoch, from a step on.
    workers
        Processes that prepare batches; none: the calling one. They stay from epoch to epoch.
    pinned
        Whether batches come to lie in pinned memory, from which a CUDA device fetches them.
    """

    def __init__(self, made: Dataset[T], draws: Callable[[int, int], Iterator[Any]], workers: int, pinned: bool):
        self._order = _Draws(draws)
        self._begun = 0
        self._running: Iterator[T] | None = None
        self._loader: DataLoader | None = DataLoader(
            made,
            sampler=self._order,
            batch_size=None,
            collate_fn=as_it_is,  # else the loader would make tensors of all arrays
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pinned,
            worker_init_fn=leave_to_parent,
            generator=torch.Generator().manual_seed(0),  # else the loader would draw from the global one
        )

    def begin(self, epoch: int, start_step: int) -> Iterator[T]:
        """The batches of an epoch; an older one then raises `RuntimeError`."""
        if self._loader is None:
            raise RuntimeError("this stream is closed")
        self._begun += 1
        self._order.start = epoch, start_step
        self._running = refused_in_one_line(iter(self._loader))
        return self._batches(self._begun)

    def close(self) -> None:
        """End the processes that load; they would not end at a signal."""
        self._running = self._loader = None

    def _batches(self, number: int) -> Iterator[T]:
        while number == self._begun and self._running is not None:
            batch = next(self._running, None)
            if batch is None:
                return
            yield batch
        raise RuntimeError("a newer epoch of this stream has begun, or it is closed")


class _Draws(Sampler[Any]):
    """The draws of the epoch that is to start."""

    def __init__(self, draws: Callable[[int, int], Iterator[Any]]):
        self.start = 0, 0
        """Epoch and step."""
        self._draws = draws

    def __iter__(self) -> Iterator[Any]:
        return self._draws(*self.start)


class EpochStream(Generic[Made, T]):
    """Training batches, epoch by epoch, which worker processes make up to what only their device is needed for.

    Parameters
    ----------
    made
        Makes of a draw what is handed over.
    finished
        Makes a batch of that, on the device.
    order
        The draws of every epoch.
    workers
        Processes that prepare batches; none: the calling one. The batches are the same.
    device
        Where the batches come to lie.
    """

    def __init__(
        self,
        made: Dataset[Made],
        finished: Callable[[Made, torch.device], T],
        order: Order,
        workers: int,
        device: torch.device | str,
    ):
        self._device = torch.device(device)
        self._order, self._finished = order, finished
        self._epochs = Epochs(made, order.draws, workers, pinned=self._device.type == "cuda")

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; what does not fill a batch is dropped."""
        return self._order.steps

    def draws(self, epoch: int, start_step: int = 0) -> Iterator[Draw]:
        """Which images this rank's part of each batch holds, from ``start_step`` on."""
        return self._order.draws(epoch, start_step)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[T]:
        """The batches of an epoch, from ``start_step`` on; the same whether or not those before were made.

        One epoch at a time: the workers stay, and turn to the new epoch as soon as it is asked for. An older one then raises
        `RuntimeError`.
        """
        return (self._finished(made, self._device) for made in self._epochs.begin(epoch, start_step))

    def close(self) -> None:
        """End the processes that load; they would not end at a signal."""
        self._epochs.close()
