"""Boxes, masks and names drawn over an image."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from m2mkd.data.segmentation import Bitmap

OPACITY = 0.45
"""Opacity of a mask."""
GOLDEN = 0.618034
"""Share of the hue circle between consecutive classes, so that neighbours differ."""
TEXT = 11


class Mark(NamedTuple):
    """Mark for one instance or detection."""

    box: ArrayLike
    """x0 y0 x1 y1 in pixels of the image, (4,)."""
    mask: Bitmap | None
    """(H, W)."""
    label: int
    """Class, which determines the colour."""
    caption: str


def colour(label: int) -> tuple[int, int, int]:
    """Colour of a class: red, green and blue from 0 to 255."""
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.75, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def overlaid(image: NDArray[np.uint8], marks: Sequence[Mark], longest: int) -> Image.Image:
    """Image (H, W, 3) with marks, resized so that its longer side has ``longest`` pixels."""
    pixels = image.astype(np.float32)
    for mark in marks:
        if mark.mask is not None:
            pixels[mark.mask] += OPACITY * (np.array(colour(mark.label), np.float32) - pixels[mark.mask])
    scale = longest / max(image.shape[:2])
    width, height = (max(1, round(scale * side)) for side in image.shape[1::-1])
    small = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    picture = Image.fromarray(np.rint(pixels).astype(np.uint8)).resize((width, height), small)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    for mark in marks:
        left, top, right, bottom = (np.asarray(mark.box, np.float64) * scale).tolist()
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour(mark.label))
    for mark in marks:
        left, top = (np.asarray(mark.box, np.float64)[:2] * scale).tolist()
        place = left + 2, max(top - 1, 0)
        draw.rectangle(draw.textbbox(place, mark.caption, font), fill="black")
        draw.text(place, mark.caption, colour(mark.label), font)
    return picture
