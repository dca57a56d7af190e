"""COCO in its published layout: archives of images, and one of annotation files; or everything in one archive."""

import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from m2mkd.data.annotations import StoredTable
from m2mkd.data.archives import Archive, ArchiveMember, open_zip
from m2mkd.data.coco import AnnotationFile, read_annotations
from m2mkd.data.contents import Member
from m2mkd.data.images import BadImageError, PackedImage
from m2mkd.data.whole import whole_image
from m2mkd.errors import InputError

ANNOTATIONS = re.compile(r"(?P<root>(.*/)?)annotations/instances_(?P<folder>(?P<split>train|val)\d*)\.json")
LARGEST_ANNOTATIONS = 1 << 30
"""Maximum bytes of an annotation file in a tar, which is read into memory at once; the largest one of COCO has half of that."""
ORIENTATION = 0x0112
"""EXIF tag of an image's orientation; 1, or none, if its first row is the top."""


class Photograph(NamedTuple):
    """Location of an image, and its annotated properties."""

    member: Member
    id: int
    height: int
    width: int


@dataclass(frozen=True)
class SceneListing:
    """Images of one split, in order."""

    photographs: list[Photograph]
    table: StoredTable
    attributes: Mapping[str, NDArray[Any]]
    """See `m2mkd.data.detection_pack.DetectionSource`."""


@dataclass(frozen=True)
class Scenes:
    """Classes and splits of a data set for detection."""

    classes: tuple[str, ...]
    """Names in the order of the labels, which is that of the ids of the categories."""
    category_ids: list[int]
    splits: Mapping[str, SceneListing]


def coco(archives: Sequence[Archive], scratch: Path) -> Scenes:
    """Read a data set in the layout of COCO.

    Parameters
    ----------
    archives
        Hold ``annotations/instances_train2017.json``, ``train2017/*.jpg`` and the same for val, at any path.
    scratch
        Folder for annotations: those of COCO would take half a gigabyte to pass between processes.

    Raises
    ------
    InputError
        If an annotation file is missing or wrong, or names an image that does not exist.
    """
    files: dict[str, tuple[Archive, re.Match[str]]] = {}
    for archive in archives:
        for name in archive.members:
            if match := ANNOTATIONS.fullmatch(name):
                if match["split"] in files:
                    raise InputError(f"{archive.path}: {name} is a second file of {match['split']} annotations; remove the wrong archive")
                files[match["split"]] = archive, match
    if missing := [split for split in ("train", "val") if split not in files]:
        wanted = f"annotations/instances_{missing[0]}2017.json"
        raise InputError(f"{archives[-1].path}: {wanted} is missing; fetch the archive of the right data set")
    categories = {}
    splits = {}
    for split in ("train", "val"):
        archive, match = files[split]
        file = read_annotations(partial(_opened, archive.member(match[0])), f"{archive.path}: {match[0]}")
        photographs = _photographs(archives, archive, match, file)
        categories[split] = file.categories
        attributes = {
            "id": np.array([image.id for image in file.images]),
            "height": np.array([image.height for image in file.images]),
            "width": np.array([image.width for image in file.images]),
            "name": np.array([photograph.member.name.encode() for photograph in photographs]),
        }
        splits[split] = SceneListing(photographs, file.table.stored(scratch / f"{split}.annotations.jsonl"), attributes)
    if categories["train"] != categories["val"]:
        raise InputError(f"{archives[-1].path}: the categories of train and val differ; fetch the archive again")
    return Scenes(tuple(each.name for each in categories["train"]), [each.id for each in categories["train"]], splits)


def _photographs(archives: Sequence[Archive], annotated: Archive, match: re.Match[str], file: AnnotationFile) -> list[Photograph]:
    found = []
    for image in file.images:
        name = f"{match['root']}{match['folder']}/{image.file_name}"
        archive = next((archive for archive in archives if name in archive.members), None)
        if archive is None:
            raise InputError(f"{annotated.path}: {match[0]}: image {image.id}: {name} is not in any archive; fetch the whole data set")
        found.append(Photograph(archive.member(name), image.id, image.height, image.width))
    return found


@contextmanager
def _opened(member: ArchiveMember) -> Iterator[IO[bytes]]:
    """Open a file of an archive for reading in parts: the largest one of COCO has half a gigabyte."""
    try:
        if member.offset < 0:
            with open_zip(member.file) as archive, archive.open(member.name) as file:
                yield file
        else:
            yield io.BytesIO(member.read(LARGEST_ANNOTATIONS))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError) as error:
        raise InputError(f"{member.archive}: {member.name} cannot be read ({error}); fetch the archive again") from None


def packed_photographs(photographs: Sequence[Photograph]) -> list[PackedImage]:
    """Files of images, each checked to be complete and of the annotated size."""
    result = []
    for member, number, height, width in photographs:
        content = member.read()
        try:
            payload, size = _upright(content)
        except BadImageError as error:
            raise InputError(f"{member.archive}: {member.name} {error}; replace the archive by a complete one") from None
        if size != (width, height):
            said = f"has {size[0]} x {size[1]} pixels, but image {number} is annotated as {width} x {height}"
            raise InputError(f"{member.archive}: {member.name} {said}; fetch the archives again")
        result.append(PackedImage(payload, hashlib.sha256(content).digest()))
    return result


def _upright(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Image file, and its width and height; an image whose first row is not its top is rewritten without loss."""
    image = whole_image(content, side=1)  # of any shape: a detector bounds the longer side
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # damaged EXIF does not matter for the pixels, and Pillow raises arbitrary errors for it
        turned = False
    if not turned:
        return content, image.size
    image, buffer = ImageOps.exif_transpose(image), io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), image.size
