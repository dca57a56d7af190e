"""Writing packed data sets: as a stream, for sets of any size, and resumed after an interruption."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2mkd.config.datasets import PREPARE_FORMAT
from m2mkd.data.images import PackedImage
from m2mkd.data.manifest import PACK_MANIFEST, SHA256_BYTES, manifest_digest
from m2mkd.data.pack import ENCODED, PIXELS, shard_name
from m2mkd.files import read_note, replacing, sha256, write_json

SHARD_BYTES = 1 << 28
CHUNK = 256
"""Images between two marks from which an interrupted attempt resumes."""
JOURNAL = "journal.json"


@dataclass(frozen=True)
class SplitSource:
    """Source that a split is packed from."""

    images: Callable[[int], Iterable[NDArray[np.uint8] | PackedImage]]
    """Images from a given index, as many as labels: arrays uint8 (S, S, 3), or packed."""
    labels: ArrayLike
    attributes: Mapping[str, ArrayLike] = field(default_factory=dict)
    storage: str = PIXELS
    final: bool = True
    """True if the images already have the geometry of evaluation."""

    def __len__(self) -> int:
        return len(np.asarray(self.labels))

    def write_tables(self, folder: Path, split: str, classes: int) -> dict[str, Any]:
        """Write the properties of the images, and return their entry in the manifest."""
        labels = np.asarray(self.labels, dtype=np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"{split}: labels {labels.min()} to {labels.max()} do not fit {classes} classes")
        np.save(folder / f"{split}.labels.npy", labels)
        for name, values in self.attributes.items():
            np.save(folder / f"{split}.{name}.npy", np.asarray(values))
        return {"images": len(labels), "per_class": np.bincount(labels, minlength=classes).tolist(), "attributes": sorted(self.attributes)}


class Source(Protocol):
    """Source of a split of any kind: images, as in `SplitSource`, and the properties of each."""

    @property
    def images(self) -> Callable[[int], Iterable[NDArray[np.uint8] | PackedImage]]: ...

    @property
    def storage(self) -> str: ...

    @property
    def final(self) -> bool: ...

    def __len__(self) -> int: ...

    def write_tables(self, folder: Path, split: str, classes: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Content:
    """Content of a data set before it is packed."""

    classes: tuple[str, ...]
    """Names in the order of the labels."""
    splits: Mapping[str, Source]
    source: Mapping[str, Any]
    """Origin of the images: file, sha256, and how they were made."""
    prepared_from: Mapping[str, str] = field(default_factory=dict)
    """Digests of the source files that were used, if others would give the same set."""


def write_pack(
    folder: Path,
    name: str,
    image_size: int,
    content: Content,
    synthetic: bool = False,
    shown: Callable[[int], object] = lambda done: None,
) -> None:
    """Pack a data set; ``folder`` appears, or is replaced, only when everything is written.

    After a kill, a call with the same source resumes at the last mark; after an error nothing is left.

    Parameters
    ----------
    folder
        Output folder.
    name, image_size, content, synthetic
        Metadata and content of the set.
    shown
        Called with the number of images written.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        _begin(partial, {"image_size": image_size, "classes": list(content.classes), "source": dict(content.source)})
        before = 0
        splits = {}
        for split, source in content.splits.items():
            splits[split] = _write_split(partial, split, source, image_size, len(content.classes), shown, before)
            before += splits[split]["images"]
        (partial / JOURNAL).unlink(missing_ok=True)
        files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(partial.iterdir())}
        manifest = {
            "format": PREPARE_FORMAT,
            "name": name,
            "image_size": image_size,
            "synthetic": synthetic,
            "classes": list(content.classes),
            "splits": splits,
            "source": dict(content.source),
            "files": files,
        } | ({"prepared_from": dict(content.prepared_from)} if content.prepared_from else {})
        write_json(partial / PACK_MANIFEST, manifest | {"digest": manifest_digest(manifest)})


def _begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Remove what an attempt from another source left, and note the source of this attempt."""
    identity = manifest_digest(facts)
    if _marks(folder).get("of") != identity:
        for left in folder.iterdir():
            left.unlink()
        write_json(folder / JOURNAL, {"of": identity})


def _marks(folder: Path) -> dict[str, Any]:
    """Journal: a digest of the source under ``of``, and the mark of each split."""
    marks = read_note(folder / JOURNAL)
    return marks if isinstance(marks, dict) else {}


def _write_split(
    folder: Path, split: str, source: Source, size: int, classes: int, shown: Callable[[int], object], before: int
) -> dict[str, Any]:
    count = len(source)
    facts = source.write_tables(folder, split, classes)
    writer = _Writer(folder, split, source.storage, count, size)
    done = writer.resumed()
    images = iter(source.images(done))
    while chunk := list(itertools.islice(images, CHUNK)):
        if done + len(chunk) > count:
            raise ValueError(f"{done + len(chunk)} images for {count} labels")
        writer.append([_packed(image, size) for image in chunk])
        done += len(chunk)
        writer.mark(done)
        shown(before + done)
    if done != count:
        raise ValueError(f"{done} images for {count} labels")
    return facts | {"attributes": sorted([*facts["attributes"], "sha256"]), "storage": source.storage, "final": source.final}


def _packed(image: NDArray[np.uint8] | PackedImage, size: int) -> PackedImage:
    if isinstance(image, PackedImage):
        return image
    if image.shape != (size, size, 3) or image.dtype != np.uint8:
        raise ValueError(f"an image is {image.dtype} {image.shape}, not uint8 {(size, size, 3)}")
    payload = image.tobytes()
    return PackedImage(payload, hashlib.sha256(payload).digest())


class _Writer:
    """Writer that appends the images of one split to its files, and marks up to where they are complete."""

    def __init__(self, folder: Path, split: str, storage: str, count: int, size: int):
        self.folder, self.split, self.storage = folder, split, storage
        # Written as streams: on a full disk a memory map would end the process with a signal instead of an error.
        self.streams: dict[str, tuple[tuple[int, ...], str]] = {"sha256": ((count, SHA256_BYTES), "|u1")}
        if storage == PIXELS:
            self.streams["images"] = ((count, size, size, 3), "|u1")
        else:
            self.streams["spans"] = ((count, 3), "<i8")
        self.shard, self.offset = 0, 0

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.split}.{name}.npy"

    def resumed(self) -> int:
        """Number of images from an earlier attempt; everything after the last mark is cut off."""
        mark = _marks(self.folder).get(self.split)
        self.shard, self.offset = (mark["shard"], mark["offset"]) if mark else (0, 0)
        for path in self.folder.glob(f"{self.split}.*.shard"):
            if mark is None or path.name > shard_name(self.split, self.shard):
                path.unlink()
        if mark is None:
            for name, (shape, kind) in self.streams.items():
                with self._path(name).open("wb") as file:
                    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
            return 0
        for name, length in mark["bytes"].items():
            os.truncate(self.folder / name, length)
        return mark["images"]

    def append(self, images: list[PackedImage]) -> None:
        """Append images."""
        with self._path("sha256").open("ab") as file:
            file.writelines(image.sha256 for image in images)
        if self.storage == PIXELS:
            with self._path("images").open("ab") as file:
                file.writelines(image.payload for image in images)
            return
        spans = []
        for image in images:
            if self.offset + len(image.payload) > SHARD_BYTES and self.offset:
                self.shard, self.offset = self.shard + 1, 0
            spans.append((self.shard, self.offset, len(image.payload)))
            self.offset += len(image.payload)
        for shard, group in itertools.groupby(zip(spans, images, strict=True), key=lambda pair: pair[0][0]):
            with (self.folder / shard_name(self.split, shard)).open("ab") as file:
                file.writelines(image.payload for _, image in group)
        with self._path("spans").open("ab") as file:
            file.write(np.asarray(spans, "<i8").tobytes())

    def mark(self, images: int) -> None:
        """Record that ``images`` images are complete, once they are on the disk."""
        names = [self._path(name).name for name in self.streams]
        if self.storage == ENCODED:
            names.append(shard_name(self.split, self.shard))
        sizes = {}
        for name in names:
            with (self.folder / name).open("rb+") as file:
                os.fsync(file.fileno())
                sizes[name] = os.fstat(file.fileno()).st_size
        mark = {"images": images, "bytes": sizes, "shard": self.shard, "offset": self.offset}
        write_json(self.folder / JOURNAL, _marks(self.folder) | {self.split: mark})
