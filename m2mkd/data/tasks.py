"""Tasks of the processes that read untrusted files: finding and reading images. They import only what they need."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from m2mkd.config.layout import Layout, SourcePaths
from m2mkd.data.contents import Contents, Member
from m2mkd.data.image_layout import FoundImage, ImageLayout
from m2mkd.data.images import BadImageError, PackedImage, covered, evaluated
from m2mkd.data.subsets import Selection, picked, picked_arrays
from m2mkd.data.whole import whole_image
from m2mkd.errors import InputError


def found_in(layout: Layout, source: SourcePaths, selection: Selection | None = None) -> Any:
    """Read the contents of a data set's source files: contents, scenes, or arrays of pixels; ``selection``: images to select."""
    found = layout.read(source)
    if selection is None:
        return found
    if isinstance(found, Contents):
        return picked(found, selection, source.paths[0])
    classes, arrays = found
    return picked_arrays(classes, arrays, selection, source.paths[0])


def found_at(layout: ImageLayout, path: Path, scratch: Path) -> list[FoundImage]:
    """List the images of a data set that is read in place, without those of a split that is left out."""
    return [one for one in layout.images(path, scratch) if not layout.leaves_out(one.split)]


def image_digests(members: Sequence[Member]) -> list[bytes]:
    """sha256 of the content of each image."""
    return [hashlib.sha256(member.read()).digest() for member in members]


def checked_images(members: Sequence[Member]) -> list[tuple[bytes, int]]:
    """sha256 and number of bytes of the content of each image, which is decoded to see that it is complete."""
    contents = (_whole(member, 1)[0] for member in members)
    return [(hashlib.sha256(content).digest(), len(content)) for content in contents]


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
