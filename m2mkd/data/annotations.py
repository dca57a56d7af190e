"""Instances of the images of a packed set: a line of JSON for each image, in COCO's terms."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from m2mkd.data.segmentation import Segmentation, from_run_lengths
from m2mkd.files import write_atomically


class Instance(NamedTuple):
    """Annotated instance, or a crowd of instances."""

    id: int
    """Id in the source."""
    label: int
    """Class, from 0."""
    bbox: list[float]
    """Left, top, width and height in pixels."""
    area: float
    """Area of the mask, in pixels, as annotated."""
    iscrowd: int
    """1 for a crowd, which is not trained on, and in which a detection is not wrong."""
    segmentation: list[list[float]] | dict[str, Any]
    """Polygons x y x y ..., of at least three points each, possibly none; or compressed run lengths."""

    @property
    def trainable(self) -> bool:
        """True if a detector is trained on it."""
        return not self.iscrowd and bool(self.segmentation)

    def mask(self) -> Segmentation:
        """Outline or bitmap of the instance."""
        if isinstance(self.segmentation, dict):
            return from_run_lengths(self.segmentation)
        return tuple(np.array(polygon, np.float64).reshape(-1, 2) for polygon in self.segmentation)


class AnnotationTable:
    """Instances of a split, image by image.

    Parameters
    ----------
    images
        Number of images N.
    classes
        Number of classes C.
    """

    def __init__(self, images: int, classes: int):
        self._lines: list[list[bytes]] = [[] for _ in range(images)]
        self.trainable = np.zeros(images, np.int64)
        """Number of trained instances of each image, (N,)."""
        self.per_class = np.zeros(classes, np.int64)
        """Number of instances of each class that are not crowds, (C,)."""
        self.crowds = 0
        """Number of crowds."""

    def add(self, image: int, instance: Instance) -> None:
        """Append an instance of an image; it is kept as text, which takes a tenth of the memory."""
        self._lines[image].append(json.dumps(instance._asdict(), separators=(",", ":")).encode())
        self.trainable[image] += instance.trainable
        if instance.iscrowd:
            self.crowds += 1
        else:
            self.per_class[instance.label] += 1

    def write(self, file: BinaryIO) -> NDArray[np.int64]:
        """Write a line for each image; return the start of each line and the end of the last one, (N + 1,)."""
        lengths = [file.write(b"[" + b",".join(instances) + b"]\n") for instances in self._lines]
        return np.cumsum([0, *lengths])

    def stored(self, path: Path) -> "StoredTable":
        """Store the table in a file, which replaces an existing one."""
        starts: list[NDArray[np.int64]] = []
        write_atomically(path, lambda file: starts.append(self.write(file)))
        return StoredTable(path, starts[0], self.trainable, self.per_class, self.crowds)


@dataclass(frozen=True)
class StoredTable:
    """`AnnotationTable` in a file; small, so that it can be passed to another process."""

    path: Path
    starts: NDArray[np.int64]
    trainable: NDArray[np.int64]
    per_class: NDArray[np.int64]
    crowds: int

    def write(self, file: BinaryIO) -> NDArray[np.int64]:
        """As `AnnotationTable.write`."""
        with self.path.open("rb") as source:
            shutil.copyfileobj(source, file)
        return self.starts


def instances_of(line: bytes) -> tuple[Instance, ...]:
    """Instances in a line."""
    return tuple(Instance(**fields) for fields in json.loads(line))
