"""Packed data sets: decoded images in plain arrays, with a manifest that gives away every wrong byte."""

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2mkd.config.datasets import PREPARE_FORMAT
from m2mkd.config.seeds import derive_seed
from m2mkd.errors import InputError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes
    ----------
    images
        uint8, (N, H, W, 3); memory-mapped where it comes from a pack.
    labels
        int64, (N,).
    attributes
        Further facts on each image by name, (N,) each: the rendition that it is, for example.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: ArrayLike) -> "Split":
        """The images at ``indices``, copied into memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        attributes = {name: values[chosen] for name, values in self.attributes.items()}
        return Split(np.asarray(self.images[chosen]), self.labels[chosen], attributes)


@dataclass(frozen=True)
class SplitSource:
    """What a split is packed from; the images may be a generator, so that a large set never lies in memory as a whole."""

    images: Iterable[NDArray[np.uint8]]
    """As many as there are labels, each uint8, (S, S, 3)."""
    labels: ArrayLike
    attributes: Mapping[str, ArrayLike] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """What a data set consists of, before it is packed."""

    classes: tuple[str, ...]
    """Names in the order of the labels."""
    splits: Mapping[str, SplitSource]
    source: Mapping[str, Any]
    """Where the images come from: file, sha256, and how they were made."""


@dataclass(frozen=True)
class Pack:
    """A packed data set on disk."""

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
        """Whether the images were made by image operations from another set."""
        return self.manifest["synthetic"]

    def split(self, name: str) -> Split:
        """The split of that name; its images stay on disk until they are read.

        Raises
        ------
        InputError
            If the set has no such split.
        """
        splits = self.manifest["splits"]
        if name not in splits:
            raise InputError(f"{self.folder}: {self.name} has no split '{name}'; it has {', '.join(splits)}")
        arrays = {key: np.load(self.folder / f"{name}.{key}.npy") for key in ("labels", *splits[name]["attributes"])}
        images = np.load(self.folder / f"{name}.images.npy", mmap_mode="r")
        return Split(images, arrays.pop("labels"), arrays)


def write_pack(folder: Path, name: str, image_size: int, content: Content, synthetic: bool = False) -> None:
    """Pack a data set; ``folder`` appears, or is replaced, only when everything is written.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(folder) as partial:
        splits = {split: _write_split(partial, split, source, image_size, content.classes) for split, source in content.splits.items()}
        files = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(partial.iterdir())}
        manifest = {
            "format": PREPARE_FORMAT,
            "name": name,
            "image_size": image_size,
            "synthetic": synthetic,
            "classes": list(content.classes),
            "splits": splits,
            "source": dict(content.source),
            "files": files,
        }
        (partial / MANIFEST).write_text(json.dumps(manifest | {"digest": _digest(manifest)}, indent=1) + "\n")


def open_pack(folder: Path, verify: bool = True) -> Pack:
    """Open a packed set.

    Parameters
    ----------
    folder
        What ``write_pack`` wrote.
    verify
        Whether to read every file and compare its sha256; otherwise presence and sizes only.

    Raises
    ------
    InputError
        If the set is absent, of another format version, or damaged; names the file.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        digest = manifest.pop("digest")
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})", folder) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path, "is not a manifest", folder) from error
    if manifest.get("format") != PREPARE_FORMAT:
        raise _damaged(path, f"has format {manifest.get('format')}, but this version reads {PREPARE_FORMAT}", folder)
    if _digest(manifest) != digest:
        raise _damaged(path, "is damaged: its content does not match its digest", folder)
    for name, expected in manifest["files"].items():
        _check_file(folder / name, expected, folder, verify)
    return Pack(folder, manifest)


def stratified_share(labels: ArrayLike, share: float, names: tuple[str | int, ...]) -> NDArray[np.int64]:
    """Indices of the same share of every class, at least one image of each.

    Parameters
    ----------
    labels
        Class of each image, (N,).
    share
        In (0, 1]. A smaller share is a subset of a larger one.
    names
        What the choice is for; the same names always choose the same images.

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


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its place when the block ends well and vanishes when it does not."""
    mark = uuid.uuid4().hex[:12]
    partial, old = (folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("partial", "old"))
    partial.mkdir()
    try:
        yield partial
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write_split(folder: Path, split: str, source: SplitSource, size: int, classes: tuple[str, ...]) -> dict[str, Any]:
    labels = np.asarray(source.labels, dtype=np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"{split}: labels {labels.min()} to {labels.max()} do not fit {len(classes)} classes")
    np.save(folder / f"{split}.labels.npy", labels)
    for name, values in source.attributes.items():
        np.save(folder / f"{split}.{name}.npy", np.asarray(values))
    # Written as a stream: on a full disk a memory map would end the process with a signal instead of an error.
    with (folder / f"{split}.images.npy").open("wb") as file:
        _write_images(file, source.images, (len(labels), size, size, 3))
    return {
        "images": len(labels),
        "per_class": np.bincount(labels, minlength=len(classes)).tolist(),
        "attributes": sorted(source.attributes),
    }


def _write_images(file: BinaryIO, images: Iterable[NDArray[np.uint8]], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    count = 0
    for count, image in enumerate(images, start=1):
        if image.shape != shape[1:] or image.dtype != np.uint8:
            raise ValueError(f"image {count - 1} is {image.dtype} {image.shape}, not uint8 {shape[1:]}")
        file.write(np.ascontiguousarray(image).data)
    if count != shape[0]:
        raise ValueError(f"{count} images for {shape[0]} labels")


def _check_file(path: Path, expected: Mapping[str, Any], folder: Path, verify: bool) -> None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise _damaged(path, f"is damaged: {size} bytes instead of {expected['bytes']}", folder)
        if verify and _sha256(path) != expected["sha256"]:
            raise _damaged(path, "is damaged: its sha256 differs from the manifest's", folder)
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})", folder) from error


def _damaged(path: Path, what: str, folder: Path) -> InputError:
    return InputError(f"{path} {what}; remove {folder} and run the workflow again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
