"""ImageNet-1k in its published layout."""

import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from m2mkd.data.archives import Archive
from m2mkd.data.contents import Contents, Listing, require_every_class
from m2mkd.data.lists import LARGEST_LIST, has_text_name, integer, label_of, lines, root_of
from m2mkd.errors import InputError


def imagenet(archives: Sequence[Archive]) -> Contents:
    """Read ImageNet-1k: a tar of tars, flat validation images, and their classes in the development kit."""
    train_archive, val_archive, kit = archives
    root = root_of(kit, "data/ILSVRC2012_validation_ground_truth.txt")
    wnid_of = _imagenet_classes(kit, f"{root}data/meta.mat")
    classes = tuple(sorted(wnid_of.values()))
    labels = {wnid: label for label, wnid in enumerate(classes)}
    train, val = Listing(), Listing()
    for name in train_archive.members:
        if not has_text_name(name):
            train.add(train_archive.member(name), label_of(labels, PurePosixPath(name).parent.name, train_archive, name))
    file = f"{root}data/ILSVRC2012_validation_ground_truth.txt"
    truth = [integer(line, kit, f"{file}, line {number}") for number, line in lines(kit, file)]
    names = sorted(name for name in val_archive.members if not has_text_name(name))
    if len(names) != len(truth):
        raise InputError(f"{val_archive.path}: {len(names)} validation images, but {len(truth)} labels in {kit.path}; fetch both again")
    for name, number in zip(names, truth, strict=True):
        if number not in wnid_of:
            raise InputError(f"{kit.path}: {file}: {number} is not the number of a class; fetch the development kit again")
        val.add(val_archive.member(name), labels[wnid_of[number]])
    return require_every_class(train_archive.path, Contents(classes, {"train": train, "val": val}))


def _imagenet_classes(kit: Archive, name: str) -> dict[int, str]:
    """WordNet ids of the classes without subclasses, by their numbers in the development kit."""
    from scipy.io import loadmat

    matrix: Any = io.BytesIO(kit.read(name, LARGEST_LIST))
    try:
        synsets = loadmat(matrix, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as error:  # a damaged matrix raises arbitrary errors
        raise InputError(f"{kit.path}: {name} is not the table of classes ({error}); fetch the development kit again") from None
