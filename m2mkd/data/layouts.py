"""Archives of published data sets: the file and class of every image."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from m2mkd.data.archives import Archive
from m2mkd.data.contents import Contents, Listing, refuse_unplaced, require_every_class
from m2mkd.data.lists import below, has_text_name, integer, label_of, lines, root_of, table
from m2mkd.errors import InputError

WNID = re.compile(r"n\d{8}")


def tiny_imagenet(archives: Sequence[Archive]) -> Contents:
    """Tiny-ImageNet: train/<wnid>/images, and val/images with its labels in val_annotations.txt, or a regrouped val/<wnid>."""
    (archive,) = archives
    root = root_of(archive, "wnids.txt")
    classes = tiny_imagenet_classes(archive)
    labels = {wnid: label for label, wnid in enumerate(classes)}
    train, val = Listing(), Listing()
    grouped, flat = [], False
    for name in archive.members:
        split, *folders = below(root, name)[:-1] or ("",)
        if split not in ("train", "val") or has_text_name(name):
            continue
        if split == "val" and folders == ["images"]:
            flat = True
        elif len(folders) == 1 or folders[1:] == ["images"]:
            if split == "train":
                train.add(archive.member(name), label_of(labels, folders[0], archive, name))
            else:
                grouped.append((_natural(name), name, folders[0]))
    if flat or not grouped:
        _add_annotated(val, archive, f"{root}val/", labels)
    else:
        for _, name, wnid in sorted(grouped):
            val.add(archive.member(name), label_of(labels, wnid, archive, name))
    # The test set has no labels.
    contents = require_every_class(archive.path, Contents(classes, {"train": train, "val": val}))
    refuse_unplaced(archive, (train, val), "train/<wnid>/images, or with a label in val", lambda name: below(root, name)[:1] == ("test",))
    return contents


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts val_2.JPEG before val_10.JPEG, as in the list of labels."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", PurePosixPath(name).name)]


def _add_annotated(val: Listing, archive: Archive, folder: str, labels: Mapping[str, int]) -> None:
    file = f"{folder}val_annotations.txt"
    seen = set()
    for number, line in lines(archive, file):
        image, tab, rest = line.partition("\t")
        if not tab:
            raise InputError(f"{archive.path}: {file}, line {number}: '{line}' is not an image and its class; fetch the archive again")
        if image in seen:
            raise InputError(f"{archive.path}: {file}, line {number}: {image} is listed twice; fetch the archive again")
        seen.add(image)
        val.add(archive.member(f"{folder}images/{image}"), label_of(labels, rest.split("\t")[0].strip(), archive, f"{file}, line {number}"))


def tiny_imagenet_classes(archive: Archive) -> tuple[str, ...]:
    """WordNet ids of the classes that have training images, sorted."""
    root = root_of(archive, "wnids.txt")
    listed = {line for _, line in lines(archive, f"{root}wnids.txt")}
    found = {parts[1] for name in archive.members if len(parts := below(root, name)) > 2 and parts[0] == "train"}
    if missing := sorted(listed - found):
        raise InputError(f"{archive.path}: class {missing[0]} of wnids.txt has no training images; fetch the whole archive")
    return tuple(sorted(listed))


def image_folder(archives: Sequence[Archive]) -> Contents:
    """Folders train/<class> and val/<class>."""
    (archive,) = archives
    by_split: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    for name in archive.members:
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-3] in by_split and not has_text_name(name):
            by_split[parts[-3]].append((parts[-2], name))
    classes = tuple(sorted({name for found in by_split.values() for name, _ in found}))
    labels = {name: label for label, name in enumerate(classes)}
    splits = {}
    for split, found in by_split.items():
        splits[split] = Listing()
        for name, file in sorted(found):
            splits[split].add(archive.member(file), labels[name])
    contents = require_every_class(archive.path, Contents(classes, splits))
    refuse_unplaced(archive, splits.values(), "train/<class> or val/<class>")
    return contents


def imagenet_r(archives: Sequence[Archive]) -> Contents:
    """Folders <wnid>, with files named after their rendition; there is no training split."""
    return Contents(*_renditions(archives[0], None))


def tiny_imagenet_r(archives: Sequence[Archive]) -> Contents:
    """The images of ImageNet-R in the classes of Tiny-ImageNet, each squashed to a square (paper.md 2)."""
    renditions, tiny = archives
    return Contents(*_renditions(renditions, set(tiny_imagenet_classes(tiny))), squashed=True)


def tiny_imagenet_rendition(archives: Sequence[Archive]) -> Contents:
    """Validation photographs of Tiny-ImageNet, from which renditions are made."""
    contents = tiny_imagenet(archives)
    return Contents(contents.classes, {"val": contents.splits["val"]}, rendered=True)


def _renditions(archive: Archive, wanted: set[str] | None) -> tuple[tuple[str, ...], dict[str, Listing]]:
    images = []
    for name in archive.members:
        wnid = PurePosixPath(name).parent.name
        if WNID.fullmatch(wnid) and (wanted is None or wnid in wanted) and not has_text_name(name):
            images.append((wnid, name))
    classes = tuple(sorted({wnid for wnid, _ in images}))
    if len(classes) < 2:
        found = f"holds images of {len(classes)} wanted classes in folders named by WordNet id"
        raise InputError(f"{archive.path}: {found}; fetch the archive of the right data set")
    labels = {wnid: label for label, wnid in enumerate(classes)}
    listing = Listing()
    for wnid, name in sorted(images):
        listing.add(archive.member(name), labels[wnid])
        listing.renditions.append(re.split(r"[_.]\d*", PurePosixPath(name).name)[0])
    refuse_unplaced(
        archive, [listing], "a folder named by WordNet id", lambda name: WNID.fullmatch(PurePosixPath(name).parent.name) is not None
    )
    return classes, {"val": listing}


def cub(archives: Sequence[Archive]) -> Contents:
    """CUB-200-2011: tables of images, their classes and the official split, joined by image number."""
    (archive,) = archives
    root = root_of(archive, "images.txt")
    names = table(archive, f"{root}images.txt")
    number_of = table(archive, f"{root}image_class_labels.txt")
    training = table(archive, f"{root}train_test_split.txt")
    class_names = table(archive, f"{root}classes.txt")
    # A pack of some classes keeps the tables of all classes; an image without a file is not part of it.
    there = {image: name for image, name in names.items() if f"{root}images/{name}" in archive.members}
    for entries, file in ((number_of, "image_class_labels.txt"), (training, "train_test_split.txt")):
        if missing := [image for image in there if image not in entries]:
            raise InputError(f"{archive.path}: {root}{file}: image {missing[0]} is missing; fetch the archive again")
    used = sorted({number_of[image] for image in there}, key=lambda number: integer(number, archive, "image_class_labels.txt"))
    if missing := [number for number in used if number not in class_names]:
        raise InputError(f"{archive.path}: {root}classes.txt: class {missing[0]} is missing; fetch the archive again")
    labels = {number: label for label, number in enumerate(used)}
    file = f"{root}train_test_split.txt"
    splits = {"train": Listing(), "val": Listing()}
    for image, name in names.items():
        if image not in there:
            if number_of.get(image) in labels:
                raise InputError(f"{archive.path}: {root}images/{name} is missing; fetch the whole archive")
            continue
        if training[image] not in ("0", "1"):
            raise InputError(f"{archive.path}: {file}: image {image} has '{training[image]}', not 0 or 1; fetch the archive again")
        splits["train" if training[image] == "1" else "val"].add(archive.member(f"{root}images/{name}"), labels[number_of[image]])
    contents = require_every_class(archive.path, Contents(tuple(class_names[number] for number in used), splits))
    refuse_unplaced(archive, splits.values(), f"{root}images.txt")
    return contents
