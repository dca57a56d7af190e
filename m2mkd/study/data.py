"""A data set as a run sees it."""

from pydantic import PositiveInt

from m2mkd.config import load
from m2mkd.config.base import Config
from m2mkd.config.datasets import PREPARE_FORMAT, DatasetConfig
from m2mkd.study.keys import digest

MANIFEST = "manifest.json"


class Data(Config):
    """A prepared data set as one run sees it."""

    name: str
    image_size: PositiveInt
    classes: PositiveInt
    key: str
    """Digest of what its images are known by, the preparation and the image size."""

    def __str__(self) -> str:
        return f"{self.name}@{self.image_size}"

    @property
    def manifest(self) -> str:
        """Its list of files with their digests; the last file that is written, so that a set is whole where it is there."""
        return f"{self.folder}/{MANIFEST}"

    @property
    def folder(self) -> str:
        """Where the prepared set lies, relative to the root."""
        return f"data/packed/{self.name}@{self.image_size}/{self.key}"


def resolve_data(text: str, field: str) -> tuple[Data, DatasetConfig]:
    """A data set written ``name@size``, with its key, and its entry in the registry.

    Raises
    ------
    InputError
        If it is not of that form, or not in the registry; ``field`` says where it stands.
    """
    ref = load.data_ref(text, field)
    dataset = load.datasets()[ref.name]
    key = digest([ref.name, ref.image_size, PREPARE_FORMAT, dataset.layout, dataset.identity])
    return Data(name=ref.name, image_size=ref.image_size, classes=dataset.classes, key=key), dataset
