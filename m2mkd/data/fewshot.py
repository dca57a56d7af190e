"""Few-shot episodes: k classes with n shots each (vmoe.md 5, FS)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from m2mkd.data.pack import Split
from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed

VAL_PER_SHOT = 3
"""Number of validation images per shot."""


@dataclass(frozen=True)
class Episode:
    """Few-shot task."""

    classes: tuple[int, ...]
    """Chosen classes, ascending; the new label of a class is its index here."""
    train: NDArray[np.int64]
    """Indices of the shots in the training split, in the order of training."""
    val: NDArray[np.int64]
    """Indices of the validation images in the split that they come from."""
    label_map: dict[int, int]
    """New label of each chosen class."""

    def subset(self, split: Split, indices: NDArray[np.int64]) -> Split:
        """Subset of ``split`` at ``indices``, with the new labels."""
        taken = split.take(indices)
        return replace(taken, labels=np.array([self.label_map[int(label)] for label in taken.labels], np.int64))


def episode_seed(replicate: int, number: int) -> int:
    """Seed of a replicate's episodes, 32 bits: the first only from the replicate's number, for compatibility; the others from names."""
    return derive_seed("episode", replicate, number) & 0xFFFFFFFF if number else replicate + 1


def episode(train_split: Split, val_split: Split, way: int, shots: int, seed: int, val_from: Literal["test", "train"] = "test") -> Episode:
    """Draw an episode.

    Parameters
    ----------
    train_split, val_split
        The data set's own splits.
    way, shots
        Number of classes, and of training images per class; three times as many for validation, fewer if a class has fewer.
    seed
        Seed of classes and images. Every seed, including 0, gives the same classes for training and validation.
    val_from
        ``test``: validation images come from the validation split. ``train``: they come from the training split, drawn like the
        shots, and therefore contain them, as in the released code.

    Raises
    ------
    InputError
        If the set has fewer classes than ``way``, or a chosen class has fewer training images than ``shots``, or no validation image.
    """
    available = sorted(set(train_split.labels.tolist()))
    if way > len(available):
        raise InputError(f"few-shot: way {way} is more than the {len(available)} classes of the training split; lower 'way'")
    drawn = random.Random(seed).sample(available, way)
    train = _draw(train_split.labels, drawn, shots, seed)
    val = _draw((val_split if val_from == "test" else train_split).labels, drawn, VAL_PER_SHOT * shots, seed)
    for label in drawn:
        images = int(np.sum(train_split.labels == label))
        if images < shots:
            raise InputError(f"few-shot: class {label} has {images} training images, fewer than {shots} shots; lower 'shots'")
        if val_from == "test" and not np.any(val_split.labels == label):
            raise InputError(f"few-shot: class {label} has no validation image; choose another data set")
    classes = tuple(sorted(drawn))
    return Episode(classes, train, val, {label: rank for rank, label in enumerate(classes)})


def _draw(labels: NDArray[np.int64], classes: Sequence[int], number: int, seed: int) -> NDArray[np.int64]:
    """First ``number`` images of a permutation of each class, in the order in which the classes were drawn, then shuffled."""
    generator = np.random.RandomState(seed)
    chosen = np.concatenate([generator.permutation(np.flatnonzero(labels == label))[:number] for label in classes])
    generator.shuffle(chosen)
    return chosen
