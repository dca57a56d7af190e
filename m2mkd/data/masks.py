"""Class masks for measuring a model on a data set that shares only some of its classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2mkd.errors import InputError


class ClassMask(NamedTuple):
    """Common classes of a model and a data set, in the model's order."""

    columns: NDArray[np.int64]
    """Columns of the model's logits to keep, (M,)."""
    labels: NDArray[np.int64]
    """Index in ``columns`` for each label of the data set, (C,), or -1 if the model does not know the class."""

    def known(self, labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Select the images of a data set that can be measured.

        Parameters
        ----------
        labels
            Labels of the images, (N,).

        Returns
        -------
        tuple
            Indices of the images whose class the model knows; their labels among the kept columns; number of images left out.
        """
        masked = self.labels[np.asarray(labels, dtype=np.int64)]
        kept = np.flatnonzero(masked >= 0)
        return kept, masked[kept], len(masked) - len(kept)


def class_mask(model_classes: Sequence[str], set_classes: Sequence[str]) -> ClassMask:
    """Class mask for measuring a model of ``model_classes`` on a set of ``set_classes`` (vmoe.md 5, ImageNet-R; nac.md 13).

    Raises
    ------
    InputError
        If fewer than two classes are common, or a name is repeated in one of the lists.
    """
    for names in (model_classes, set_classes):
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"class '{twice}' is repeated in a list of {len(names)} classes; use distinct names, such as WordNet ids")
    common = set(model_classes) & set(set_classes)
    if len(common) < 2:
        raise InputError(
            f"model and data set share {len(common)} of {len(model_classes)} and {len(set_classes)} classes"
            f" (for example {_some(model_classes)} and {_some(set_classes)}); choose an out-of-distribution set that shares at least two"
        )
    columns = [column for column, name in enumerate(model_classes) if name in common]
    index_of = {model_classes[column]: index for index, column in enumerate(columns)}
    return ClassMask(np.array(columns, np.int64), np.array([index_of.get(name, -1) for name in set_classes], np.int64))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) or "none"
