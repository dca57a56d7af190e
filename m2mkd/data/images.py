"""Decoding of image files, and the geometry of evaluation."""

import io
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

EVALUATED_SHARE = 224 / 256
"""Ratio of the side of the measured square to the shorter side of the image (vmoe.md 4.1)."""
FORMATS = ("JPEG", "PNG")
"""Formats of the registered data sets. Each further format of Pillow, even PostScript, would be another parser open to untrusted files."""
MOST_PIXELS = 1 << 26
"""Maximum pixels; more than any photograph of the registered data sets has."""
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")
"""Modes with more than 8 bits per channel, which a conversion would clip."""


class PackedImage(NamedTuple):
    """Image on its way into a pack."""

    payload: bytes
    """Pixels, or the encoded file."""
    sha256: bytes
    """Digest of the source file, 32 bytes."""


class BadImageError(ValueError):
    """Error in the bytes of an image, in a few words."""


def opened(content: bytes) -> Image.Image:
    """Decode an image file to RGB: palettes, grey, CMYK and transparent images too, whatever the name of the file says.

    Raises
    ------
    BadImageError
        If it is empty, neither JPEG nor PNG, truncated, larger than any photograph, or has more than 8 bits per channel.
    """
    if not content:
        raise BadImageError("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise BadImageError(f"is not a complete image ({image.width} x {image.height} pixels are more than a photograph has)")
            # Pillow opens colours of 16 bits as colours of 8 bits, but its tiles show the depth in the file.
            if image.mode in DEEP or any(";16" in str(tile) for tile in getattr(image, "tile", ())):
                raise BadImageError(f"has more than 8 bits per channel (mode {image.mode})")
            if image.mode in ("P", "LA", "PA", "RGBA"):
                # Transparent parts would show arbitrary colours.
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return image.convert("RGB")
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"is not a complete image (not of the formats {' and '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's plugins raise arbitrary errors
        raise BadImageError(f"is not a complete image ({type(error).__name__}: {error})") from None


def decoded(content: bytes) -> NDArray[np.uint8]:
    """Pixels of an image file, uint8 (H, W, 3); raises as `opened`."""
    return np.asarray(opened(content))


def evaluated(image: Image.Image, side: int) -> Image.Image:
    """Geometry of evaluation: shorter side resized to 256/224 of ``side``, bicubic, then the central square of ``side``."""
    return central_square(image, int(side / EVALUATED_SHARE), side)


def require_shape(image: Image.Image, side: int) -> None:
    """Refuse an image so narrow that it would become huge when its shorter side is resized for evaluation at ``side``.

    Raises
    ------
    BadImageError
        If it is too narrow.
    """
    shorter, longer = sorted(image.size)
    if longer * (side / EVALUATED_SHARE) ** 2 > MOST_PIXELS * shorter:
        raise BadImageError(f"has {image.width} x {image.height} pixels, too narrow to be resized to {side}")


def covered(image: Image.Image, side: int) -> Image.Image:
    """Whole image, as far as it fits into a square of ``side``; unchanged if it is that square."""
    return image if image.size == (side, side) else central_square(image, side, side)


def central_square(image: Image.Image, shorter: int, side: int) -> Image.Image:
    """Image with its shorter side resized to ``shorter``, then the central square of ``side``; rounded as in torchvision."""
    width, height = image.size
    scale: Any = shorter / min(width, height)
    size = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    if scale != 1:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2.0) for length in image.size)
    return image.crop((left, top, left + side, top + side))
