"""COCO as its makers hand it out: archives of images, and one of annotation files; or all of it in one archive."""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ImageOps

from m2mkd.data.archives import Archive, Place
from m2mkd.data.coco import AnnotationFile, read_annotations
from m2mkd.data.detection_pack import DetectionSource
from m2mkd.data.images import BadImageError, opened
from m2mkd.data.packing import Content, PackedImage
from m2mkd.errors import InputError

ANNOTATIONS = re.compile(r"(?P<root>(.*/)?)annotations/instances_(?P<folder>(?P<split>train|val)\d*)\.json")
ORIENTATION = 0x0112
"""Tag of EXIF that says which side of an image is up; 1, or none, where that is its first row."""


class Photograph(NamedTuple):
    """Where an image lies, and what is known of it."""

    place: Place
    id: int
    height: int
    width: int


Parallel = Callable[[Callable[[Sequence[Photograph]], list[PackedImage]], Sequence[Photograph]], Iterator[PackedImage]]


def coco_content(archives: Sequence[Archive], facts: Mapping[str, Any], parallel: Parallel) -> Content:
    """What a data set in the layout of COCO consists of: every image as its file, checked, with its instances.

    Parameters
    ----------
    archives
        Hold ``annotations/instances_train2017.json``, ``train2017/*.jpg`` and the same for val, each anywhere.
    facts
        Of the source, for the manifest.
    parallel
        Hands images, in groups, to a function, and gives what it makes of them in order.

    Raises
    ------
    InputError
        If an annotation file is missing or wrong in any way, or names an image that is not there.
    """
    files = {}
    for archive in archives:
        for name in archive.members:
            if match := ANNOTATIONS.fullmatch(name):
                if match["split"] in files:
                    raise InputError(f"{archive.path}: {name} is a second file of {match['split']} annotations; remove the wrong archive")
                files[match["split"]] = archive, match
    if missing := [split for split in ("train", "val") if split not in files]:
        wanted = f"annotations/instances_{missing[0]}2017.json"
        raise InputError(f"{archives[-1].path}: {wanted} is missing; fetch the archive of the right data set")
    read = {}
    splits = {}
    for split in ("train", "val"):
        archive, match = files[split]
        read[split] = file = read_annotations(partial(_opened, archive.place(match[0])), f"{archive.path}: {match[0]}")
        photographs = _photographs(archives, archive, match, file)
        splits[split] = DetectionSource(
            partial(_from, parallel, photographs),
            file.table,
            {
                "id": np.array([image.id for image in file.images]),
                "height": np.array([image.height for image in file.images]),
                "width": np.array([image.width for image in file.images]),
                "name": np.array([photograph.place.name.encode() for photograph in photographs]),
            },
        )
    if read["train"].categories != read["val"].categories:
        raise InputError(f"{archives[-1].path}: the categories of train and val differ; fetch the archive again")
    categories = read["train"].categories
    ids = {"category_ids": [category.id for category in categories]}
    return Content(tuple(category.name for category in categories), splits, {**facts, **ids})


def _from(parallel: Parallel, photographs: Sequence[Photograph], start: int) -> Iterator[PackedImage]:
    return parallel(_checked, photographs[start:])


def _photographs(archives: Sequence[Archive], annotated: Archive, match: re.Match[str], file: AnnotationFile) -> list[Photograph]:
    found = []
    for image in file.images:
        name = f"{match['root']}{match['folder']}/{image.file_name}"
        archive = next((archive for archive in archives if name in archive.members), None)
        if archive is None:
            raise InputError(f"{annotated.path}: {match[0]}: image {image.id}: {name} is in no archive; fetch the whole data set")
        found.append(Photograph(archive.place(name), image.id, image.height, image.width))
    return found


@contextmanager
def _opened(place: Place) -> Iterator[IO[bytes]]:
    """A file of an archive, to be read bit by bit: the largest one of COCO fills half a gigabyte."""
    try:
        if place.offset < 0:
            with zipfile.ZipFile(place.file) as archive, archive.open(place.name) as file:
                yield file
        else:
            yield io.BytesIO(place.read())
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{place.archive}: {place.name} cannot be read ({error}); fetch the archive again") from None


def _checked(photographs: Sequence[Photograph]) -> list[PackedImage]:
    """The files of images, each seen to be whole and of the size that is annotated."""
    result = []
    for place, number, height, width in photographs:
        content = place.read()
        try:
            payload, size = _upright(content)
        except BadImageError as error:
            raise InputError(f"{place.archive}: {place.name} {error}; replace the archive by a whole one") from None
        if size != (width, height):
            said = f"has {size[0]} x {size[1]} pixels, but image {number} is annotated as {width} x {height}"
            raise InputError(f"{place.archive}: {place.name} {said}; fetch the archives again")
        result.append(PackedImage(payload, hashlib.sha256(content).digest()))
    return result


def _upright(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """An image file, and its width and height; one whose first row is not what is up is written anew, without a loss."""
    image = opened(content)
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # damaged EXIF says nothing of the pixels, and Pillow stumbles over it in any way
        turned = False
    if not turned:
        return content, image.size
    image, buffer = ImageOps.exif_transpose(image), io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), image.size
