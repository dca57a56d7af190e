"""Data sets that are read in place: from a folder, a table of paths, or whatever else a path leads to."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2mkd.config.datasets import DatasetConfig
from m2mkd.data.image_layout import Arranged, FoundImage, ImageLayout, arranged
from m2mkd.data.readers import BYTES_PER_SECOND, READ_MEMORY, READ_MEMORY_SHARE, READ_SECONDS, Readers, reading
from m2mkd.data.tasks import found_at, image_digests
from m2mkd.errors import InputError


@contextmanager
def readers_at(path: Path, processes: int | None = None) -> Iterator[Readers]:
    """Context with processes that read what is at a path; they may take time and memory for all of it."""
    total = 0
    for folder, _, names in os.walk(path):
        total += sum(file.stat().st_size for name in names if (file := Path(folder, name)).is_file())
    memory, seconds = READ_MEMORY + total // READ_MEMORY_SHARE, READ_SECONDS + total / BYTES_PER_SECOND
    with reading(processes or len(os.sched_getaffinity(0)), [path], mapped=True, memory=memory, seconds=seconds) as readers:
        yield readers


def arranged_at(layout: ImageLayout, path: Path, scratch: Path, readers: Readers) -> Arranged:
    """Read every image at a path once, for its digest, and arrange all by them.

    Raises
    ------
    InputError
        If there is nothing, an image or label is missing or damaged, or splits or classes are not those of a data set.
    """
    found = found_images(layout, path, scratch, readers)
    return arranged(layout, path, found, list(readers.in_order(image_digests, [one.member for one in found])))


def found_images(layout: ImageLayout, path: Path, scratch: Path, readers: Readers) -> list[FoundImage]:
    """List the images at a path; none is read."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; give the path of the images, from the root of the project")
    return readers.read(found_at, layout, path, scratch)


def require_same(name: str, dataset: DatasetConfig, digest: str) -> None:
    """Refuse images other than those that the registry identifies.

    Raises
    ------
    InputError
        If the digest differs.
    """
    if digest != dataset.content:
        known = f"its images have the digest {digest[:12]}..., but the registry has {str(dataset.content)[:12]}... for {name}"
        raise InputError(f"{dataset.path}: {known}; restore the images, or run 'm2mkd data add' again if you mean these")


def content_here(name: str, dataset: DatasetConfig) -> str:
    """Digest of the images at the path of a set, after a comparison with the registry; raises as `arranged_at` and `require_same`."""
    path = Path(str(dataset.path))
    with tempfile.TemporaryDirectory() as scratch, readers_at(path) as readers:
        digest = arranged_at(image_layout(dataset), path, Path(scratch), readers).digest
    require_same(name, dataset, digest)
    return digest


def image_layout(dataset: DatasetConfig) -> ImageLayout:
    """Layout of a set that is read in place."""
    layout = dataset.reader
    if not isinstance(layout, ImageLayout):
        raise InputError(f"layout '{dataset.kind}' is not read in place; give source files instead of a path")
    return layout
