"""Packed sets for detection: images as in any packed set, and a line of annotations for each.

In addition to its images, a split has ``SPLIT.annotations.jsonl``, and ``SPLIT.starts.npy`` with the start of each image's line.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2mkd.data.annotations import AnnotationTable, Instance, StoredTable, instances_of
from m2mkd.data.images import PackedImage
from m2mkd.data.manifest import damaged
from m2mkd.data.pack import ENCODED, EncodedImages, Pack
from m2mkd.data.samples import Sample
from m2mkd.errors import InputError
from m2mkd.files import require_file


@dataclass(frozen=True)
class DetectionSource:
    """Source that a detection split is packed from."""

    images: Callable[[int], Iterable[NDArray[np.uint8] | PackedImage]]
    """Images from a given index, as in `SplitSource`."""
    table: AnnotationTable | StoredTable
    """Their instances."""
    attributes: Mapping[str, NDArray[Any]]
    """Properties of each image, (N,) each: ``id`` in the source, ``height`` and ``width`` in pixels, and ``name`` of its file, if any."""
    storage: str = ENCODED
    final: bool = False

    def __len__(self) -> int:
        return len(self.table.trainable)

    def write_tables(self, folder: Path, split: str, classes: int) -> dict[str, Any]:
        """Write the annotations, and return their entry in the manifest."""
        with (folder / f"{split}.annotations.jsonl").open("wb") as file:
            starts = self.table.write(file)
        np.save(folder / f"{split}.starts.npy", starts)
        attributes = {**self.attributes, "trainable": self.table.trainable}
        for name, values in attributes.items():
            np.save(folder / f"{split}.{name}.npy", values)
        return {
            "images": len(self),
            "instances": int(self.table.per_class.sum()),
            "crowds": self.table.crowds,
            "per_class": self.table.per_class.tolist(),
            "attributes": sorted(attributes),
        }


@dataclass(frozen=True)
class DetectionSplit:
    """Split of a detection set with N images."""

    images: Any
    """Images by index: an array uint8 (N, H, W, 3), memory-mapped; or encoded images, of any size."""
    attributes: Mapping[str, NDArray[Any]]
    """Properties of each image, (N,) each, as in `DetectionSource`; and ``trainable``, the number of instances that are trained on."""
    path: Path
    """File of the annotations."""
    starts: NDArray[np.int64]
    """Start of each image's line in it, and the end of the last one, (N + 1,)."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def first(self, count: int) -> "DetectionSplit":
        """First images, not read yet."""
        images = self.images.first(count) if isinstance(self.images, EncodedImages) else self.images[:count]
        attributes = {name: values[:count] for name, values in self.attributes.items()}
        return replace(self, images=images, attributes=attributes, starts=self.starts[: count + 1])

    @property
    def trainable(self) -> NDArray[np.int64]:
        """Indices of the images that a detector is trained on: those with an instance that is not a crowd."""
        return np.flatnonzero(self.attributes["trainable"])

    def image(self, index: int) -> NDArray[np.uint8]:
        """Image, uint8 (H, W, 3)."""
        return np.asarray(self.images[index : index + 1][0])

    def instances(self, index: int) -> tuple[Instance, ...]:
        """All annotations of an image, including crowds."""
        start, end = self.starts[index : index + 2].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(end - start)
        try:
            return instances_of(line)
        except (ValueError, TypeError) as error:
            raise damaged(self.path, f"is damaged: its line {index + 1} does not hold instances ({error})", self.path.parent) from None

    def sample(self, index: int) -> Sample:
        """Image with the instances that are trained on."""
        kept = [instance for instance in self.instances(index) if instance.trainable]
        # In single precision, as released: the transforms use its exact sum.
        boxes = np.array([instance.bbox for instance in kept], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([instance.label for instance in kept], np.int64)
        return Sample(self.image(index), boxes.astype(np.float64), classes, tuple(instance.mask() for instance in kept))


def detection_split(pack: Pack, name: str) -> DetectionSplit:
    """Split of a packed set; its content stays on disk until it is read.

    Raises
    ------
    InputError
        If the set has no such split, or labels instead of instances, or is damaged.
    """
    facts = pack.facts(name)
    if "instances" not in facts:
        raise InputError(f"{pack.folder}: the images of {pack.name} have labels instead of boxes; name a set for detection")
    starts = pack.array(name, "starts", "i", (facts["images"] + 1,))
    path = pack.folder / f"{name}.annotations.jsonl"
    if starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] != require_file(path).st_size:
        raise damaged(pack.folder / f"{name}.starts.npy", f"is damaged: it does not say where the lines of {path.name} begin", pack.folder)
    return DetectionSplit(pack.images(name), pack.attributes(name), path, starts)
