"""Source of a job's inputs: prepared data sets and the weights of other runs. Tests provide their own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from m2mkd.errors import InputError
from m2mkd.models.weights import load_modules, load_weights
from m2mkd.study.data import Data

if TYPE_CHECKING:
    from torch import Tensor

    from m2mkd.data.pack import Pack


class JobStore(Protocol):
    """Interface that a phase uses."""

    def pack(self, data: Data) -> "Pack": ...
    def weights(self, folder: Path) -> "dict[str, Tensor]": ...
    def modules(self, folders: Sequence[Path], indices: Iterable[int]) -> "dict[int, dict[str, Tensor]]": ...


class PublishedFiles:
    """Prepared sets and published weights, all checked against their digests."""

    def pack(self, data: Data) -> "Pack":
        """Prepared set of the given key, checked.

        Raises
        ------
        InputError
            If it is missing or damaged, or has other classes than the configuration.
        """
        from m2mkd.data.pack import open_pack

        pack = open_pack(Path(data.folder))
        if len(pack.classes) != data.classes:
            raise InputError(
                f"{data.folder}: has {len(pack.classes)} classes, but config/datasets.yaml says {data.classes}; correct that value"
            )
        return pack

    def weights(self, folder: Path) -> "dict[str, Tensor]":
        """See `m2mkd.models.weights.load_weights`."""
        return load_weights(folder)

    def modules(self, folders: Sequence[Path], indices: Iterable[int]) -> "dict[int, dict[str, Tensor]]":
        """See `m2mkd.models.weights.load_modules`."""
        return load_modules(folders, indices)


PUBLISHED_FILES = PublishedFiles()
