"""Image counting of the released code: what it leaves out, and how it averages (docs/deviations.md, V14 and N15)."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from m2mkd.data.pack import Split
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import Accuracy

Meter = Callable[[Tensor], float]
"""Maps the correctness of each image, bool (N,), to the reported accuracy, 0 to 1."""


def whole_batches(split: Split, size: int) -> Split:
    """Images of a split that fill batches of ``size``; the remainder at the end is left out (vmoe.md finding 14).

    Raises
    ------
    InputError
        If the images do not fill one batch.
    """
    count = len(split) // size * size
    if not count:
        raise InputError(f"{len(split)} images do not fill a batch of {size}, so the released code measures none; use profile corrected")
    return split.first(count)


def twice_counted(correct: Tensor, batch: int, processes: int) -> float:
    """Top-1, 0 to 1, with each batch counted as a percentage and once more as a fraction (nac.md finding 15).

    The percentage has the weight of its number of images, the fraction that of one image.

    Parameters
    ----------
    correct
        True for each correct image, bool (N,).
    batch
        Images that a process measures at a time.
    processes
        Number of processes; process r measures images r, r + ``processes`` and so on.
    """
    parts = [part.double() for rank in range(processes) for part in correct[rank::processes].split(batch) if len(part)]
    percent = sum(100 * part.sum().item() + part.mean().item() for part in parts)
    return percent / 100 / (len(correct) + len(parts))


def metered(accuracy: Accuracy, meter: Meter | None) -> Accuracy:
    """Accuracy as ``meter`` reports it; unchanged if ``meter`` is None."""
    return accuracy if meter is None else replace(accuracy, top1=meter(accuracy.correct))
