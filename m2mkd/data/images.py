"""From the bytes of an image file to pixels, and the geometry of evaluation."""

import io
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

EVALUATED_SHARE = 224 / 256
"""Side of the square that is measured, over the shorter side of the image (vmoe.md 4.1)."""
FORMATS = ("JPEG", "PNG")
"""What the registered data sets hold. Every other format of Pillow would be a parser more, down to PostScript, that a file may choose."""
MOST_PIXELS = 1 << 26
"""More than any photograph of the registered data sets has."""
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")
"""Modes with more than 8 bits a channel, which a conversion would clip."""


class PackedImage(NamedTuple):
    """One image on its way into a pack."""

    payload: bytes
    """Pixels, or the encoded file."""
    sha256: bytes
    """Digest of the source file, 32 bytes."""


class BadImageError(ValueError):
    """What is wrong with the bytes of an image, in a few words."""


def opened(content: bytes) -> Image.Image:
    """Decode an image file to RGB: palettes, grey, CMYK and transparent images too, whatever the name of the file says.

    Raises
    ------
    BadImageError
        If it is empty, neither JPEG nor PNG, truncated, larger than any photograph, or deeper than 8 bits a channel.
    """
    if not content:
        raise BadImageError("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise BadImageError(f"is no whole image ({image.width} x {image.height} pixels are more than a photograph has)")
            # Pillow opens colours of 16 bits as such of 8, but says in its tiles what the file holds.
            if image.mode in DEEP or any(";16" in str(tile) for tile in getattr(image, "tile", ())):
                raise BadImageError(f"has more than 8 bits a channel (mode {image.mode})")
            if image.mode in ("P", "LA", "PA", "RGBA"):
                # Transparent parts would show whatever colour lies under them.
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return image.convert("RGB")
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"is no whole image (not of the formats {' and '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsing stumbles over
        raise BadImageError(f"is no whole image ({type(error).__name__}: {error})") from None


def decoded(content: bytes) -> NDArray[np.uint8]:
    """Pixels of an image file, uint8 (H, W, 3); raises as `opened`."""
    return np.asarray(opened(content))


def evaluated(image: Image.Image, side: int) -> Image.Image:
    """The geometry of evaluation: shorter side resized to 256/224 of ``side``, bicubic, and the central square of ``side`` cut out."""
    return central_square(image, int(side / EVALUATED_SHARE), side)


def require_shape(image: Image.Image, side: int) -> None:
    """Refuse an image so narrow that it would become vast when its shorter side is resized for evaluation at ``side``.

    Raises
    ------
    BadImageError
        If it is.
    """
    shorter, longer = sorted(image.size)
    if longer * (side / EVALUATED_SHARE) ** 2 > MOST_PIXELS * shorter:
        raise BadImageError(f"has {image.width} x {image.height} pixels, too narrow to be resized to {side}")


def covered(image: Image.Image, side: int) -> Image.Image:
    """The whole image, as far as a square of ``side`` holds it; untouched where it is that square."""
    return image if image.size == (side, side) else central_square(image, side, side)


def central_square(image: Image.Image, shorter: int, side: int) -> Image.Image:
    """Shorter side resized to ``shorter``, and the central square of ``side`` cut out; rounded as torchvision does."""
    width, height = image.size
    scale: Any = shorter / min(width, height)
    size = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    if scale != 1:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2.0) for length in image.size)
    return image.crop((left, top, left + side, top + side))
