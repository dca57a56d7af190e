"""Packed data sets: images in plain files with random access, and a manifest that reveals every wrong byte."""

import errno
import itertools
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2mkd.data.images import BadImageError, decoded
from m2mkd.data.manifest import SHA256_BYTES, damaged, read_manifest
from m2mkd.errors import InputError
from m2mkd.files import read_note, require_file, sha256, write_json
from m2mkd.locks import LACKING
from m2mkd.seeds import derive_seed

PIXELS, ENCODED = "pixels", "encoded"
"""Storage of images: decoded in one array, or as the original files in shards."""


class EncodedImages:
    """Encoded images by index; each is read and decoded on access, in any process.

    Parameters
    ----------
    folder, split
        Folder of the shards, and their split.
    spans
        Shard, offset and length in bytes of each image, int64 (N, 3).
    """

    def __init__(self, folder: Path, split: str, spans: NDArray[np.int64]):
        self.folder, self.split, self.spans = folder, split, spans
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, indices: Any) -> list[NDArray[np.uint8]]:
        """Images at a slice or an array of indices, each uint8 (H, W, 3) in its own size."""
        return [self._decoded(*span) for span in self.spans[indices].tolist()]

    def _decoded(self, shard: int, offset: int, length: int) -> NDArray[np.uint8]:
        try:
            return decoded(os.pread(self._shard(shard), length, offset))
        except BadImageError as error:
            raise damaged(
                self.folder / shard_name(self.split, shard), f"is damaged: its image at byte {offset} {error}", self.folder
            ) from None

    def first(self, count: int) -> "EncodedImages":
        """First images, not read yet."""
        return EncodedImages(self.folder, self.split, self.spans[:count])

    def _shard(self, number: int) -> int:
        if number not in self._open:
            self._open[number] = os.open(self.folder / shard_name(self.split, number), os.O_RDONLY)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __del__(self):
        for descriptor in self._open.values():
            os.close(descriptor)


@dataclass(frozen=True)
class Split:
    """Split of a data set."""

    images: Any
    """Images by index: an array uint8 (N, H, W, 3), memory-mapped if it is from a pack; or encoded images, of any size."""
    labels: NDArray[np.int64]
    """(N,)."""
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Additional properties of each image by name, (N,) each, for example its rendition."""
    final: bool = True
    """True if the images already have the geometry of evaluation; otherwise they are resized and cropped when measured."""
    image_size: int | None = None
    """Side of the network's input in pixels; None: that of the images."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Side of the network's input in pixels."""
        return self.image_size or self.images.shape[1]

    def first(self, count: int) -> "Split":
        """First images, not read yet."""
        images = self.images.first(count) if isinstance(self.images, EncodedImages) else self.images[:count]
        attributes = {name: values[:count] for name, values in self.attributes.items()}
        return replace(self, images=images, labels=self.labels[:count], attributes=attributes)

    def take(self, indices: ArrayLike) -> "Split":
        """Images at ``indices``, copied into memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        attributes = {name: values[chosen] for name, values in self.attributes.items()}
        images = self.images[chosen]
        taken = images if isinstance(images, list) else np.asarray(images)
        return replace(self, images=taken, labels=self.labels[chosen], attributes=attributes)


def shard_name(split: str, number: int) -> str:
    """File name of a shard of encoded images."""
    return f"{split}.{number:05}.shard"


@dataclass(frozen=True)
class Pack:
    """Packed data set on disk."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.manifest["image_size"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        return tuple(self.manifest["classes"])

    @property
    def synthetic(self) -> bool:
        """True if the images were made by image operations from another set."""
        return self.manifest["synthetic"]

    def split(self, name: str) -> Split:
        """Split with the given name; its images stay on disk until they are read.

        Raises
        ------
        InputError
            If the set has no such split, or its images have instances, which only a detector uses, instead of labels.
        """
        facts = self.facts(name)
        if "instances" in facts:
            raise InputError(f"{self.folder}: the images of {self.name} have boxes instead of labels; name a set for classification")
        return Split(self.images(name), self.labels(name), self.attributes(name), facts["final"], self.image_size)

    def facts(self, name: str) -> Mapping[str, Any]:
        """Facts about a split in the manifest; raises as `split`."""
        splits = self.manifest["splits"]
        if name not in splits:
            raise InputError(f"{self.folder}: {self.name} has no split '{name}'; it has {', '.join(splits)}")
        return splits[name]

    def labels(self, name: str) -> NDArray[np.int64]:
        """Class of each image of a split without instances, (N,)."""
        facts = self.facts(name)
        labels = self.array(name, "labels", "i", (facts["images"],))
        known = ((labels >= 0) & (labels < len(self.classes))).all()
        if not known or np.bincount(labels, minlength=len(self.classes)).tolist() != facts["per_class"]:
            raise damaged(self.folder / f"{name}.labels.npy", "is damaged: its labels do not match the manifest", self.folder)
        return labels

    def attributes(self, name: str) -> dict[str, NDArray[Any]]:
        """Additional properties of each image of a split, (N,) each."""
        facts = self.facts(name)
        count = facts["images"]
        shapes = {"sha256": (count, SHA256_BYTES)}
        return {key: self.array(name, key, "SUiu", shapes.get(key, (count,))) for key in facts["attributes"]}

    def images(self, name: str) -> Any:
        """Images of a split by index, which stay on disk until they are read."""
        facts, size = self.facts(name), self.image_size
        if facts["storage"] == PIXELS:
            return self.array(name, "images", "u", (facts["images"], size, size, 3), mapped=True)
        return EncodedImages(self.folder, name, self._spans(name, facts["images"]))

    def array(self, name: str, key: str, kinds: str, shape: tuple[int, ...], mapped: bool = False) -> NDArray[Any]:
        """Array of a split with the given shape and one of the given kinds of numbers or text.

        Raises
        ------
        InputError
            If it is damaged, or differs from that.
        """
        path = self.folder / f"{name}.{key}.npy"
        try:
            require_file(path)
            array = _loaded(path, mapped)
        except InputError:
            raise
        except Exception as error:  # a damaged header raises arbitrary errors
            raise damaged(path, f"is damaged ({str(error) or type(error).__name__})", self.folder) from None
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype.kind not in kinds:
            raise damaged(path, f"is damaged: it does not hold an array {shape}", self.folder)
        return array

    def _spans(self, split: str, count: int) -> NDArray[np.int64]:
        """Shard, offset and length of each encoded image, checked to be inside its shard."""
        spans = self.array(split, "spans", "i", (count, 3))
        names = itertools.takewhile(self.manifest["files"].__contains__, (shard_name(split, number) for number in itertools.count()))
        sizes = np.array([self.manifest["files"][name]["bytes"] for name in names], np.int64)
        shard, offset, length = spans.T
        inside = (shard >= 0) & (shard < len(sizes)) & (offset >= 0) & (length > 0)
        if not (inside.all() and (length <= sizes[shard]).all() and (offset <= sizes[shard] - length).all()):
            raise damaged(self.folder / f"{split}.spans.npy", "is damaged: an image of it is outside of its shard", self.folder)
        return spans


def _loaded(path: Path, mapped: bool) -> Any:
    """Content of an array's file; read whole, too, where it is to be a memory map and the file system has none."""
    if mapped:
        try:
            return np.load(path, mmap_mode="r")
        except OSError as error:
            if error.errno not in (errno.ENODEV, *LACKING):
                raise
    return np.load(path)


def open_pack(folder: Path, verify: Literal["once", "always", "never"] = "once") -> Pack:
    """Open a packed set.

    Parameters
    ----------
    folder
        Folder written by ``write_pack``.
    verify
        Frequency of reading every file to compare its sha256: always; once, that is, not again while each file has the size, time and
        inode with which it was verified (ImageNet would take minutes in every job); or never, checking presence and sizes only.

    Raises
    ------
    InputError
        If the set is missing, of another format version, or damaged; names the file.
    """
    manifest, digest = read_manifest(folder)
    _check_files(folder, manifest["files"], digest, verify)
    return Pack(folder, manifest)


def stratified_share(labels: ArrayLike, share: float, names: tuple[str | int, ...]) -> NDArray[np.int64]:
    """Indices of the same share of every class, with at least one image per class.

    Parameters
    ----------
    labels
        Class of each image, (N,).
    share
        In (0, 1]. A smaller share is a subset of a larger one.
    names
        Purpose of the selection; the same names always select the same images.

    Returns
    -------
    ndarray
        int64, ascending.
    """
    labels = np.asarray(labels)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng(derive_seed(*names, int(label))).permutation(len(members))
        chosen.append(members[order[: max(1, round(share * len(members)))]])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def _check_files(folder: Path, files: Mapping[str, Any], digest: str, verify: str) -> None:
    """Compare the files of a set with its manifest, and note next to the folder which ones were verified."""
    kept = folder.with_name(f".{folder.name}.verified")
    path = folder
    try:
        found: dict[str, Any] = {"digest": digest}
        for name, expected in files.items():
            path = folder / name
            now = require_file(path)
            found[name] = [now.st_size, now.st_mtime_ns, now.st_ino]
            if now.st_size != expected["bytes"]:
                raise damaged(path, f"is damaged: {now.st_size} bytes instead of {expected['bytes']}", folder)
        if verify == "never" or (verify == "once" and read_note(kept) == found):
            return
        for name, expected in files.items():
            path = folder / name
            if sha256(path) != expected["sha256"]:
                raise damaged(path, "is damaged: its sha256 differs from the manifest's", folder)
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})", folder) from error
    with suppress(OSError):  # in a read-only place the files are read again
        write_json(kept, found)
