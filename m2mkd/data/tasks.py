"""Tasks of the processes that read untrusted files: finding and reading images. They import only what they need."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from m2mkd.data.archives import Archive, open_archive
from m2mkd.data.cifar import read_cifar
from m2mkd.data.coco_layout import coco
from m2mkd.data.contents import Contents, Member
from m2mkd.data.images import BadImageError, PackedImage, covered, evaluated
from m2mkd.data.layouts import LAYOUTS
from m2mkd.data.parquet import parquet
from m2mkd.data.subsets import Selection, picked, picked_arrays
from m2mkd.data.whole import whole_image
from m2mkd.errors import InputError

if TYPE_CHECKING:
    from m2mkd.config.datasets import SplitName

ARCHIVED: dict[str, Callable[[Sequence[Archive]], Any]] = {**LAYOUTS, "cifar100": read_cifar}
"""Layouts that are read from archives alone."""
READ = (*ARCHIVED, "coco", "parquet")
"""Layouts that are read from source files."""


def found_in(
    layout: str, paths: Sequence[Path], splits: "Sequence[SplitName | None]", scratch: Path, selection: Selection | None = None
) -> Any:
    """Read the contents of a data set's source files: contents, scenes, or arrays of pixels.

    Parameters
    ----------
    layout, paths
        Layout and paths of the files.
    splits
        Split of each file, if the registry gives it.
    scratch
        Folder for decompressed archives, and for tables that would fill memory.
    selection
        Images to select; None: all.
    """
    found: Any
    if layout == "parquet":
        found = parquet(paths, splits)
    else:
        archives = [open_archive(path, scratch) for path in paths]
        found = coco(archives, scratch) if layout == "coco" else ARCHIVED[layout](archives)
    if selection is None:
        return found
    if isinstance(found, Contents):
        return picked(found, selection, paths[0])
    classes, arrays = found
    return picked_arrays(classes, arrays, selection, paths[0])


def image_digests(members: Sequence[Member]) -> list[bytes]:
    """sha256 of the content of each image."""
    return [hashlib.sha256(member.read()).digest() for member in members]


def packed_images(members: Sequence[Member], size: int, decoded: bool, final: bool, squash: bool) -> list[PackedImage]:
    """Read images, check that each is complete, and return pixels at ``size``, or the unchanged file if it is not to be decoded."""
    result = []
    for member in members:
        content, image = _whole(member, size)
        if squash:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        payload = content
        if decoded:
            payload = (evaluated if final else covered)(image, size).tobytes()
        elif squash:
            payload = png(image)
        result.append(PackedImage(payload, hashlib.sha256(content).digest()))
    return result


class Rendition(NamedTuple):
    """Rendition to make from a photograph."""

    member: Member
    kind: str
    seed: int


def rendered_images(renditions: Sequence[Rendition], size: int) -> list[PackedImage]:
    """Read photographs, and make renditions of the measured part of each at ``size``, as pixels; the digests are of the photographs."""
    from m2mkd.data.renditions import RENDITIONS

    result = []
    for member, kind, seed in renditions:
        content, image = _whole(member, size)
        pixels = RENDITIONS[kind](np.asarray(evaluated(image, size)), np.random.default_rng(seed))
        result.append(PackedImage(pixels.tobytes(), hashlib.sha256(content).digest()))
    return result


def _whole(member: Member, size: int) -> tuple[bytes, Image.Image]:
    """Content of an image file, and the image."""
    content = member.read()
    try:
        return content, whole_image(content, size)
    except BadImageError as error:
        raise InputError(f"{member.archive}: {member.name} {error}; replace the archive by a complete one") from None


def png(image: Image.Image) -> bytes:
    """Encode an image as the PNG file that a pack keeps."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
