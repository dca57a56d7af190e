"""Which images, and which views of them, come together in a batch and in the parts of one."""

import numpy as np
from numpy.typing import NDArray

from m2mkd.errors import InputError


def views(order: NDArray[np.int64], repeats: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Views of an epoch with repeated augmentation: those of an image one after the other, and as many in all as there are images.

    Parameters
    ----------
    order
        Images of the epoch, (N,).
    repeats
        Views of each.

    Returns
    -------
    samples, repeats
        Image of each view, and which view of it that is, from 0; (N,).
    """
    return np.repeat(order, repeats)[: len(order)], np.arange(len(order)) % repeats


def mirrored_part(size: int, part: int, parts: int) -> NDArray[np.int64]:
    """Indices of a batch that one of its parts holds: a block from the front and its mirror image from the back.

    Reversed, a part has the same indices of the reversed batch. A part of a part is a part of the batch: of R ranks with M micro-batches
    each, micro-batch m of rank r is what rank r M + m of R M would hold.

    Parameters
    ----------
    size
        Images of the batch.
    part, parts
        Which part, from 0, and of how many; together they are the batch.

    Returns
    -------
    ndarray
        int64, (size / parts,), ascending.

    Raises
    ------
    InputError
        If ``size`` is no multiple of twice ``parts``.
    """
    if parts == 1:
        return np.arange(size)
    if size % (2 * parts):
        wanted = f"{size // (2 * parts) * 2 * parts} or {(size // (2 * parts) + 1) * 2 * parts}"
        raise InputError(f"a batch of {size} images cannot be divided into {parts} parts of an even number; set batch_size to {wanted}")
    block = size // (2 * parts)
    front = np.arange(part * block, (part + 1) * block)
    return np.concatenate([front, size - 1 - front[::-1]])
