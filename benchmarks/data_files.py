"""The packs that the benchmarks of data use: registered, prepared, and as image files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.config.layout import SourcePaths, layout_from
from m2mkd.data.fetch import RAW
from m2mkd.data.pack import Pack, open_pack, stratified_share
from m2mkd.data.prepare import prepare

PACKS = Path(os.environ.get("M2MKD_DATA_PACKS", "../shared/data")).resolve()


@dataclass(frozen=True)
class Sort:
    """A pack, and how it is registered."""

    archive: str
    layout: str
    classes: int
    image_size: int

    @property
    def dataset(self) -> DatasetConfig:
        file = SourceFile(name=self.archive)
        return DatasetConfig(title=self.archive, layout=self.layout, classes=self.classes, licence="see the pack", files=(file,))


SORTS = {
    "tiny-imagenet": Sort("tiny-imagenet-100x100.zip", "tiny_imagenet", 100, 64),
    "imagenette": Sort("imagenette224-100x40.zip", "image_folder", 10, 224),
}


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder to work in, with the packs as source files."""
    before = Path.cwd()
    with TemporaryDirectory(prefix="m2mkd-benchmark-") as folder:
        os.chdir(folder)
        RAW.mkdir(parents=True)
        for sort in SORTS.values():
            (RAW / sort.archive).symlink_to(PACKS / sort.archive)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


class Files:
    """The same images as a pack of them and as image files in a folder for each class."""

    def __init__(self, name: str, images: int):
        self.sort = SORTS[name]
        prepare(name, self.sort.dataset, self.sort.image_size, Path("packed", name))
        self.pack: Pack = open_pack(Path("packed", name))
        contents = layout_from(self.sort.layout).read(SourcePaths((RAW / self.sort.archive,), (None,), Path("scratch")))
        self.chosen: dict[str, NDArray[np.int64]] = {}
        for split, listing in contents.splits.items():
            # What is measured on is read in order, so its first images; of what is trained on, as many of every class.
            share = min(1, images / len(listing.labels))
            first, spread = np.arange(len(listing.labels))[:images], stratified_share(listing.labels, share, ("benchmark",))
            self.chosen[split] = spread if split == "train" else first
            for index in self.chosen[split]:
                member = listing.members[index]
                file = self.folder(split) / f"{listing.labels[index]:04}" / f"{index}{Path(member.name).suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(member.read())

    def folder(self, split: str) -> Path:
        return Path("files", self.sort.archive, split)
