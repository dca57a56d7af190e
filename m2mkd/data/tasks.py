"""What is done in the processes that read strangers' files: finding images, and reading them. They import only what they need."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from m2mkd.data.archives import Archive, open_archive
from m2mkd.data.cifar import read_cifar
from m2mkd.data.coco_layout import coco
from m2mkd.data.contents import Member
from m2mkd.data.images import BadImageError, PackedImage, covered, evaluated
from m2mkd.data.layouts import LAYOUTS
from m2mkd.data.parquet import parquet
from m2mkd.data.whole import whole_image
from m2mkd.errors import InputError

if TYPE_CHECKING:
    from m2mkd.config.datasets import SplitName

ARCHIVED: dict[str, Callable[[Sequence[Archive]], Any]] = {**LAYOUTS, "cifar100": read_cifar}
"""Layouts that are read from archives alone."""
READ = (*ARCHIVED, "coco", "parquet")
"""Layouts that are read from source files."""


def found_in(layout: str, paths: Sequence[Path], splits: "Sequence[SplitName | None]", scratch: Path) -> Any:
    """What the source files of a data set hold: contents, scenes, or arrays of pixels.

    Parameters
    ----------
    layout, paths
        How they are laid out, and where they lie.
    splits
        Which split each is of, where the registry says so.
    scratch
        Where compressed archives are decompressed to, and tables written that would fill memory.
    """
    if layout == "parquet":
        return parquet(paths, splits)
    archives = [open_archive(path, scratch) for path in paths]
    return coco(archives, scratch) if layout == "coco" else ARCHIVED[layout](archives)


def packed_images(members: Sequence[Member], size: int, decoded: bool, final: bool, squash: bool) -> list[PackedImage]:
    """Read images, see that each is whole, and give pixels at ``size``, or the file as it is where it is not to be decoded."""
    result = []
    for member in members:
        content = member.read()
        try:
            image = whole_image(content, size)
        except BadImageError as error:
            raise InputError(f"{member.archive}: {member.name} {error}; replace the archive by a whole one") from None
        if squash:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        payload = content
        if decoded:
            payload = (evaluated if final else covered)(image, size).tobytes()
        elif squash:
            payload = png(image)
        result.append(PackedImage(payload, hashlib.sha256(content).digest()))
    return result


def png(image: Image.Image) -> bytes:
    """An image as the file that a pack keeps."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
