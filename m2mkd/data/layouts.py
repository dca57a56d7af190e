"""What the archives of a data set hold: which file is which image of which class, for every layout that the paper's sets come in."""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from m2mkd.data.archives import Archive, Place
from m2mkd.errors import InputError

IMAGE = re.compile(r".+\.(jpe?g|png|bmp|webp)", re.IGNORECASE)
WNID = re.compile(r"n\d{8}")


@dataclass
class Listing:
    """The images of one split, in order."""

    places: list[Place] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    renditions: list[str] = field(default_factory=list)
    """Of each image, where the set tells them apart; else empty."""

    def add(self, place: Place, label: int) -> None:
        self.places.append(place)
        self.labels.append(label)


@dataclass(frozen=True)
class Contents:
    """Classes and splits of a data set."""

    classes: tuple[str, ...]
    """Names in the order of the labels: WordNet ids where there are any, for they are what sets have in common."""
    splits: Mapping[str, Listing]
    squashed: bool = False
    """Whether each image is first resized to a square, its aspect not kept."""


def tiny_imagenet(archives: Sequence[Archive]) -> Contents:
    """Tiny-ImageNet: train/<wnid>/images, and val/images with its labels in val_annotations.txt."""
    (archive,) = archives
    root = _root(archive, "wnids.txt")
    classes = tiny_imagenet_classes(archive)
    labels = {wnid: label for label, wnid in enumerate(classes)}
    train, val = Listing(), Listing()
    for name in archive.members:
        parts = PurePosixPath(name).relative_to(root).parts
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and IMAGE.fullmatch(name):
            train.add(archive.place(name), _label(labels, parts[1], archive, name))
    file = f"{root}val/val_annotations.txt"
    seen = set()
    for number, line in enumerate(_lines(archive, file), start=1):
        image, tab, rest = line.partition("\t")
        if not tab:
            raise InputError(f"{archive.path}: {file}, line {number}: '{line}' is not an image and its class; fetch the archive again")
        if image in seen:
            raise InputError(f"{archive.path}: {file}, line {number}: {image} is there twice; fetch the archive again")
        seen.add(image)
        val.add(archive.place(f"{root}val/images/{image}"), _label(labels, rest.split("\t")[0], archive, f"{file}, line {number}"))
    return _whole(archive, Contents(classes, {"train": train, "val": val}))


def tiny_imagenet_classes(archive: Archive) -> tuple[str, ...]:
    """WordNet ids of the classes that have training images, sorted."""
    root = _root(archive, "wnids.txt")
    listed = set(_lines(archive, f"{root}wnids.txt"))
    found = {PurePosixPath(name).relative_to(root).parts[1] for name in archive.members if name.startswith(f"{root}train/")}
    if missing := sorted(listed - found):
        raise InputError(f"{archive.path}: class {missing[0]} of wnids.txt has no training images; fetch the whole archive")
    return tuple(sorted(listed))


def image_folder(archives: Sequence[Archive]) -> Contents:
    """Folders train/<class> and val/<class>."""
    (archive,) = archives
    images = [(PurePosixPath(name).parts, name) for name in archive.members if IMAGE.fullmatch(name)]
    by_split: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    for parts, name in images:
        if len(parts) >= 3 and parts[-3] in by_split:
            by_split[parts[-3]].append((parts[-2], name))
    classes = tuple(sorted({name for found in by_split.values() for name, _ in found}))
    labels = {name: label for label, name in enumerate(classes)}
    splits = {}
    for split, found in by_split.items():
        splits[split] = Listing()
        for name, file in sorted(found):
            splits[split].add(archive.place(file), labels[name])
    return _whole(archive, Contents(classes, splits))


def imagenet_r(archives: Sequence[Archive]) -> Contents:
    """Folders <wnid>, whose files are named after their rendition; there is no training split."""
    return Contents(*_renditions(archives[0], None))


def tiny_imagenet_r(archives: Sequence[Archive]) -> Contents:
    """The images of ImageNet-R in the classes of Tiny-ImageNet, each squashed to a square (paper.md 2)."""
    renditions, tiny = archives
    return Contents(*_renditions(renditions, set(tiny_imagenet_classes(tiny))), squashed=True)


def _renditions(archive: Archive, wanted: set[str] | None) -> tuple[tuple[str, ...], dict[str, Listing]]:
    images = []
    for name in archive.members:
        wnid = PurePosixPath(name).parent.name
        if IMAGE.fullmatch(name) and WNID.fullmatch(wnid) and (wanted is None or wnid in wanted):
            images.append((wnid, name))
    classes = tuple(sorted({wnid for wnid, _ in images}))
    if len(classes) < 2:
        found = f"holds images of {len(classes)} wanted classes in folders named by WordNet id"
        raise InputError(f"{archive.path}: {found}; fetch the archive of the right data set")
    labels = {wnid: label for label, wnid in enumerate(classes)}
    listing = Listing()
    for wnid, name in sorted(images):
        listing.add(archive.place(name), labels[wnid])
        listing.renditions.append(re.split(r"[_.]\d*", PurePosixPath(name).name)[0])
    return classes, {"val": listing}


def imagenet(archives: Sequence[Archive]) -> Contents:
    """ImageNet-1k as its makers hand it out: a tar of tars, the validation images flat, their classes in the development kit."""
    train_archive, val_archive, kit = archives
    root = _root(kit, "data/ILSVRC2012_validation_ground_truth.txt")
    wnid_of = _imagenet_classes(kit, f"{root}data/meta.mat")
    classes = tuple(sorted(wnid_of.values()))
    labels = {wnid: label for label, wnid in enumerate(classes)}
    train, val = Listing(), Listing()
    for name in train_archive.members:
        train.add(train_archive.place(name), _label(labels, PurePosixPath(name).parent.name, train_archive, name))
    file = f"{root}data/ILSVRC2012_validation_ground_truth.txt"
    truth = [_integer(line, kit, f"{file}, line {number}") for number, line in enumerate(_lines(kit, file), start=1)]
    names = sorted(name for name in val_archive.members if IMAGE.fullmatch(name))
    if len(names) != len(truth):
        raise InputError(f"{val_archive.path}: {len(names)} validation images, but {len(truth)} labels in {kit.path}; fetch both again")
    for name, number in zip(names, truth, strict=True):
        if number not in wnid_of:
            raise InputError(f"{kit.path}: {file}: {number} is not the number of a class; fetch the development kit again")
        val.add(val_archive.place(name), labels[wnid_of[number]])
    return _whole(train_archive, Contents(classes, {"train": train, "val": val}))


def _imagenet_classes(kit: Archive, name: str) -> dict[int, str]:
    """WordNet ids of the classes that are no classes of classes, by their numbers in the development kit."""
    from scipy.io import loadmat

    matrix: Any = io.BytesIO(kit.read(name))
    try:
        synsets = loadmat(matrix, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as error:  # a damaged matrix fails in any way
        raise InputError(f"{kit.path}: {name} is not the table of classes ({error}); fetch the development kit again") from None


def cub(archives: Sequence[Archive]) -> Contents:
    """CUB-200-2011: tables of images, their classes and the official split, joined by the number of the image."""
    (archive,) = archives
    root = _root(archive, "images.txt")
    names = _table(archive, f"{root}images.txt")
    number_of = _table(archive, f"{root}image_class_labels.txt")
    training = _table(archive, f"{root}train_test_split.txt")
    class_names = _table(archive, f"{root}classes.txt")
    # A pack of some classes keeps the tables of all; what has no file is not of it.
    there = {image: name for image, name in names.items() if f"{root}images/{name}" in archive.members}
    for table, file in ((number_of, "image_class_labels.txt"), (training, "train_test_split.txt")):
        if missing := [image for image in there if image not in table]:
            raise InputError(f"{archive.path}: {root}{file}: image {missing[0]} is missing; fetch the archive again")
    used = sorted({number_of[image] for image in there}, key=lambda number: _integer(number, archive, "image_class_labels.txt"))
    if missing := [number for number in used if number not in class_names]:
        raise InputError(f"{archive.path}: {root}classes.txt: class {missing[0]} is missing; fetch the archive again")
    labels = {number: label for label, number in enumerate(used)}
    file = f"{root}train_test_split.txt"
    splits = {"train": Listing(), "val": Listing()}
    for image, name in there.items():
        if training[image] not in ("0", "1"):
            raise InputError(f"{archive.path}: {file}: image {image} has '{training[image]}', not 0 or 1; fetch the archive again")
        splits["train" if training[image] == "1" else "val"].add(archive.place(f"{root}images/{name}"), labels[number_of[image]])
    return _whole(archive, Contents(tuple(class_names[number] for number in used), splits))


LAYOUTS: dict[str, Callable[[Sequence[Archive]], Contents]] = {
    "tiny_imagenet": tiny_imagenet,
    "tiny_imagenet_r": tiny_imagenet_r,
    "image_folder": image_folder,
    "imagenet": imagenet,
    "imagenet_r": imagenet_r,
    "cub": cub,
}


def _root(archive: Archive, landmark: str) -> str:
    """Folder in the archive that holds a file, with its slash."""
    found = [name for name in archive.members if name == landmark or name.endswith(f"/{landmark}")]
    if not found:
        raise InputError(f"{archive.path}: {landmark} is missing; fetch the archive of the right data set")
    return min(found, key=len).removesuffix(landmark)


def _lines(archive: Archive, name: str) -> list[str]:
    try:
        return archive.read(name).decode().splitlines() if name in archive.members else []
    except UnicodeDecodeError:
        raise InputError(f"{archive.path}: {name} is not text; fetch the archive again") from None


def _table(archive: Archive, name: str) -> dict[str, str]:
    """Lines "key value"."""
    table = {}
    for number, line in enumerate(_lines(archive, name), start=1):
        key, blank, value = line.strip().partition(" ")
        if not blank or key in table:
            raise InputError(f"{archive.path}: {name}, line {number}: '{line}' is no new number with a value; fetch the archive again")
        table[key] = value
    if not table:
        raise InputError(f"{archive.path}: {name} is missing or empty; fetch the archive again")
    return table


def _label(labels: Mapping[str, int], name: str, archive: Archive, where: str) -> int:
    if name not in labels:
        raise InputError(f"{archive.path}: {where}: '{name}' is not a class of this set; fetch the archive again")
    return labels[name]


def _integer(text: str, archive: Archive, where: str) -> int:
    if not text.strip().isdigit():
        raise InputError(f"{archive.path}: {where}: '{text}' is not a number; fetch the archive again")
    return int(text)


def _whole(archive: Archive, contents: Contents) -> Contents:
    """Refuse a split without images, and a class without images in a split."""
    for split, listing in contents.splits.items():
        if missing := sorted(set(range(len(contents.classes))) - set(listing.labels)):
            name = contents.classes[missing[0]] if contents.classes else "any"
            raise InputError(f"{archive.path}: class {name} has no image in {split}; fetch the whole archive")
        if not listing.places:
            raise InputError(f"{archive.path}: no image in {split}; fetch the archive of the right data set")
    return contents


def names_of(places: Iterable[Place]) -> list[bytes]:
    """Names of the files, for the manifest."""
    return [place.name.encode() for place in places]
