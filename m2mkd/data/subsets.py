"""Subsets of a data set, defined by a list of image names, and the digest that identifies their content.

A subset has the same bytes from every source that contains its images, such as the whole archive or a partial pack: the list
determines its classes and their order, and the digest is computed over the images.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_args

import numpy as np

from m2mkd.config.datasets import SplitName, Subset
from m2mkd.data.cifar import CifarSplit
from m2mkd.data.contents import Contents, Listing
from m2mkd.errors import InputError
from m2mkd.files import require_file


class Listed(NamedTuple):
    """Image of a subset."""

    split: str
    class_name: str
    name: str
    """File name without folders."""


@dataclass(frozen=True)
class Selection:
    """Images of a subset."""

    path: Path
    """Path of the list, for messages."""
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Names of the images of each class of each split."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels, which is that of the list."""
        return tuple(dict.fromkeys(name for classes in self.splits.values() for name in classes))

    def images(self, split: str) -> list[Listed]:
        """Images of a split: the first of every class, then the second, so that any section is balanced."""
        classes = self.splits[split]
        turns = itertools.zip_longest(*([Listed(split, name, image) for image in images] for name, images in classes.items()))
        return [image for turn in turns for image in turn if image is not None]


def read_selection(path: Path) -> Selection:
    """Read a list of images: for each class of a split a line with split, class and names, separated by tabs; ``#`` begins a comment.

    Raises
    ------
    InputError
        If it cannot be read, or a line does not have that form or repeats another line.
    """
    splits: dict[str, dict[str, tuple[str, ...]]] = {}
    try:
        require_file(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name a list of images in config/datasets.yaml") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        split, *rest = line.split("\t")
        name, images = rest[0] if rest else "", tuple(rest[1:])
        if split not in get_args(SplitName) or not all((name, images, *images)):
            raise InputError(f"{path}, line {number}: is not 'train' or 'val', a class and names of images, separated by tabs; correct it")
        if name in splits.get(split, {}) or len(set(images)) != len(images):
            raise InputError(f"{path}, line {number}: {split} images of {name} are listed twice; remove one of them")
        splits.setdefault(split, {})[name] = images
    if not splits:
        raise InputError(f"{path}: lists no image; write a line for each class of a split")
    return Selection(path, splits)


def picked(contents: Contents, selection: Selection, source: Path) -> Contents:
    """Images of a subset, selected from its source.

    Raises
    ------
    InputError
        If the source lacks an image; names it.
    """
    splits = {}
    for split in selection.splits:
        there = contents.splits.get(split, Listing())
        keys = zip((contents.classes[label] for label in there.labels), (base_name(member.name) for member in there.members), strict=True)
        places = {key: place for place, key in enumerate(keys)}
        splits[split] = listing = Listing()
        for image in selection.images(split):
            place = _place(places, image, selection, source)
            listing.add(there.members[place], selection.classes.index(image.class_name))
            listing.renditions += there.renditions[place : place + 1]
    return replace(contents, classes=selection.classes, splits=splits)


def picked_arrays(
    classes: Sequence[str], arrays: Mapping[str, CifarSplit], selection: Selection, source: Path
) -> tuple[tuple[str, ...], dict[str, CifarSplit]]:
    """Images of a subset, selected from a source of pixels with names."""
    splits = {}
    for split in selection.splits:
        there = arrays[split]
        if len(there.names) != len(there.labels):
            raise InputError(f"{source}: its {split} images have no filenames, by which those of {selection.path} are found")
        places = {(classes[label], name): place for place, (label, name) in enumerate(zip(there.labels, there.names, strict=True))}
        images = selection.images(split)
        chosen = [_place(places, image, selection, source) for image in images]
        labels = np.array([selection.classes.index(image.class_name) for image in images], np.int64)
        splits[split] = CifarSplit(there.pixels[chosen], labels, tuple(image.name for image in images))
    return selection.classes, splits


def _place(places: Mapping[tuple[str, str], int], image: Listed, selection: Selection, source: Path) -> int:
    place = places.get((image.class_name, image.name))
    if place is None:
        missing = f"{image.name} of class {image.class_name}, in {image.split}, is missing"
        raise InputError(f"{source}: {missing}, but {selection.path} lists it; fetch the whole archive")
    return place


def base_name(name: str) -> str:
    """File name without folders, which may differ between packs."""
    return PurePosixPath(name).name


def subset_digest(images: Iterable[tuple[Listed, bytes]]) -> str:
    """sha256 of a subset: of a line ``split class name sha256`` for each image in order, separated by tabs.

    Parameters
    ----------
    images
        Images, each with the digest of its content, 32 bytes.
    """
    lines = ("\t".join((*image, sha256.hex())) for image, sha256 in images)
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def require_content(subset: Subset, images: Iterable[tuple[Listed, bytes]], sources: Sequence[Path], where: str) -> None:
    """Refuse a source whose images differ from the registered ones, whatever its name; arguments as in `subset_digest`.

    Raises
    ------
    InputError
        If the digest differs; ``where`` is the place of the registration.
    """
    found = subset_digest(images)
    if found != subset.sha256:
        names = ", ".join(map(str, sources))
        wrong = f"the images of {subset.images} have sha256 {found} here, but {where} expects {subset.sha256}"
        raise InputError(f"{names}: {wrong}; fetch the original, or correct the registry if you mean other images")
