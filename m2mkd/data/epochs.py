"""Epochs of a stream that worker processes prepare; one epoch runs at a time, and may start at any step."""

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
    """Collate function for a batch that is already complete."""
    return batch


class Epochs(Generic[T]):
    """Batches that a data set makes from the draws of each epoch.

    Parameters
    ----------
    made
        Makes a batch from a draw, in any process.
    draws
        Draws of an epoch, from a given step.
    workers
        Processes that prepare batches; 0: the calling process. They are kept between epochs.
    pinned
        True if batches are put into pinned memory, from which a CUDA device fetches them.
    """

    def __init__(self, made: Dataset[T], draws: Callable[[int, int], Iterator[Any]], workers: int, pinned: bool):
        self._order = _Draws(draws)
        self._begun = 0
        self._running: Iterator[T] | None = None
        self._loader: DataLoader | None = DataLoader(
            made,
            sampler=self._order,
            batch_size=None,
            collate_fn=as_it_is,  # otherwise the loader would convert all arrays to tensors
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pinned,
            worker_init_fn=leave_to_parent,
            generator=torch.Generator().manual_seed(0),  # otherwise the loader would draw from the global one
        )

    def begin(self, epoch: int, start_step: int) -> Iterator[T]:
        """Batches of an epoch; iterators of older epochs then raise `RuntimeError`."""
        if self._loader is None:
            raise RuntimeError("this stream is closed")
        self._begun += 1
        self._order.start = epoch, start_step
        self._running = refused_in_one_line(iter(self._loader))
        return self._batches(self._begun)

    def close(self) -> None:
        """End the loading processes, which do not end at a signal."""
        self._running = self._loader = None

    def _batches(self, number: int) -> Iterator[T]:
        while number == self._begun and self._running is not None:
            batch = next(self._running, None)
            if batch is None:
                return
            yield batch
        raise RuntimeError("a newer epoch of this stream has begun, or it is closed")


class _Draws(Sampler[Any]):
    """Draws of the next epoch."""

    def __init__(self, draws: Callable[[int, int], Iterator[Any]]):
        self.start = 0, 0
        """Epoch and step."""
        self._draws = draws

    def __iter__(self) -> Iterator[Any]:
        return self._draws(*self.start)


class EpochStream(Generic[Made, T]):
    """Training batches, epoch by epoch; worker processes prepare everything except the steps on the device.

    Parameters
    ----------
    made
        Makes the data to pass on from a draw.
    finished
        Makes a batch from these data, on the device.
    order
        The draws of every epoch.
    workers
        Processes that prepare batches; 0: the calling process. The batches are the same.
    device
        Device of the batches.
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
        """Number of batches in an epoch; an incomplete batch is dropped."""
        return self._order.steps

    def draws(self, epoch: int, start_step: int = 0) -> Iterator[Draw]:
        """Images of this rank's part of each batch, from ``start_step``."""
        return self._order.draws(epoch, start_step)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[T]:
        """Batches of an epoch, from ``start_step``; the same whether or not the previous ones were made.

        Only one epoch runs at a time: the workers stay, and switch to the new epoch when it is requested. An iterator of an older epoch
        then raises `RuntimeError`.
        """
        return (self._finished(made, self._device) for made in self._epochs.begin(epoch, start_step))

    def close(self) -> None:
        """End the loading processes, which do not end at a signal."""
        self._epochs.close()
