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
    """Digest of the identity of its images, the preparation and the image size."""

    def __str__(self) -> str:
        return f"{self.name}@{self.image_size}"

    @property
    def manifest(self) -> str:
        """List of its files with their digests; written last, so that a set with a manifest is complete."""
        return f"{self.folder}/{MANIFEST}"

    @property
    def folder(self) -> str:
        """Folder of the prepared set, relative to the root."""
        return f"data/packed/{self.name}@{self.image_size}/{self.key}"


def resolve_data(text: str, field: str) -> tuple[Data, DatasetConfig]:
    """A data set written ``name@size``, with its key, and its entry in the registry.

    Raises
    ------
    InputError
        If it is not of that form, or not in the registry; ``field`` names its place.
    """
    ref = load.data_ref(text, field)
    dataset = load.datasets()[ref.name]
    key = digest([ref.name, ref.image_size, PREPARE_FORMAT, dataset.layout_identity, dataset.identity])
    return Data(name=ref.name, image_size=ref.image_size, classes=dataset.classes, key=key), dataset
