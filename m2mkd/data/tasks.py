"""What is done in the processes that read strangers' files: finding images, and reading them. They import only what they need."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from m2mkd.data.archives import Archive, ArchiveMember, open_archive
from m2mkd.data.cifar import read_cifar
from m2mkd.data.coco_layout import coco
from m2mkd.data.images import BadImageError, PackedImage, covered, evaluated
from m2mkd.data.layouts import LAYOUTS
from m2mkd.data.whole import whole_image
from m2mkd.errors import InputError

READ: dict[str, Callable[[Sequence[Archive]], Any]] = {**LAYOUTS, "cifar100": read_cifar}
"""Layouts that are read from archives; each gives contents, or arrays of pixels."""


def found_in(layout: str, paths: Sequence[Path], scratch: Path) -> Any:
    """What the archives of a data set hold; to ``scratch`` compressed ones are decompressed, and tables written that fill memory."""
    archives = [open_archive(path, scratch) for path in paths]
    return coco(archives, scratch) if layout == "coco" else READ[layout](archives)


def packed_images(members: Sequence[ArchiveMember], size: int, decoded: bool, final: bool, squash: bool) -> list[PackedImage]:
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
