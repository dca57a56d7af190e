"""Draws of images and their views for a batch, and for the parts of a batch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed


class Draw(NamedTuple):
    """Images of one batch."""

    epoch: int
    step: int
    samples: NDArray[np.int64]
    """Index of each image in the split."""
    repeats: NDArray[np.int64]
    """View of each image, from 0."""


class Order:
    """Draws of every epoch of a stream.

    With repeated augmentation, the views of an image are consecutive in the global order, so that they are in one batch, or in two
    (vmoe.md 4.1); their distribution among ranks has no effect on the batch.

    Parameters
    ----------
    indices
        Images to use, (N,).
    batch_size
        Images of the global batch; an incomplete batch is dropped from an epoch.
    names
        Names from which all randomness is derived.
    part
        Indices of the global batch that are drawn here.
    repeats
        Views of each image.
    updates
        Number of batches over all epochs; the last epoch may be cut short. None: no limit.

    Raises
    ------
    InputError
        If there are fewer images than a batch holds.
    """

    def __init__(
        self,
        indices: ArrayLike,
        batch_size: int,
        names: tuple[str | int, ...],
        part: NDArray[np.int64],
        repeats: int = 1,
        updates: int | None = None,
    ):
        self._indices = np.asarray(indices, dtype=np.int64)
        if len(self._indices) < batch_size:
            short = f"{len(self._indices)} training images are fewer than one batch of {batch_size}"
            raise InputError(f"{' '.join(map(str, names))}: {short}; lower batch_size, or use more of the data set or a larger one")
        self.steps = len(self._indices) // batch_size
        """Batches in an epoch."""
        self._batch_size, self._names, self._part, self._repeats, self._updates = batch_size, names, part, repeats, updates

    def draws(self, epoch: int, start_step: int = 0) -> Iterator[Draw]:
        """Draws of an epoch, from a given step."""
        order = np.random.default_rng(derive_seed(*self._names, "order", epoch)).permutation(self._indices)
        samples, repeats = views(order, self._repeats)
        end = self.steps if self._updates is None else min(self.steps, self._updates - epoch * self.steps)
        for step in range(start_step, end):
            here = step * self._batch_size + self._part
            yield Draw(epoch, step, samples[here], repeats[here])


def views(order: NDArray[np.int64], repeats: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Views of an epoch with repeated augmentation: those of an image are consecutive, and there are as many in total as images.

    Parameters
    ----------
    order
        Images of the epoch, (N,).
    repeats
        Views of each.

    Returns
    -------
    samples, repeats
        Image of each view, and the number of the view, from 0; (N,).
    """
    return np.repeat(order, repeats)[: len(order)], np.arange(len(order)) % repeats


def mirrored_part(size: int, part: int, parts: int) -> NDArray[np.int64]:
    """Indices of a batch that one of its parts holds: a block from the front and its mirror image from the back.

    Reversed, a part has the same indices of the reversed batch. A part of a part is a part of the batch: with R ranks of M
    micro-batches each, micro-batch m of rank r equals the part of rank r M + m of R M.

    Parameters
    ----------
    size
        Images of the batch.
    part, parts
        Number of the part, from 0, and number of parts; together they are the batch.

    Returns
    -------
    ndarray
        int64, (size / parts,), ascending.

    Raises
    ------
    InputError
        If ``size`` is not a multiple of twice ``parts``.
    """
    if parts == 1:
        return np.arange(size)
    if size % (2 * parts):
        wanted = f"{size // (2 * parts) * 2 * parts} or {(size // (2 * parts) + 1) * 2 * parts}"
        raise InputError(f"a batch of {size} images cannot be divided into {parts} parts of even size; set batch_size to {wanted}")
    block = size // (2 * parts)
    front = np.arange(part * block, (part + 1) * block)
    return np.concatenate([front, size - 1 - front[::-1]])
