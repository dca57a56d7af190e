"""A picture of a data set: some images of some classes, with their names."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m2mkd.data.images import covered
from m2mkd.data.pack import Pack, Split
from m2mkd.files import write_atomically

SHOWN_CLASSES, SHOWN_EACH = 12, 6
TILE, CAPTION_HEIGHT, MARGIN = 72, 16, 6


def write_contact_sheet(pack: Pack, path: Path) -> None:
    """Write the contact sheet of a set as a PNG; see `contact_sheet`."""
    write_atomically(path, partial(contact_sheet(pack).save, format="PNG"))


def contact_sheet(pack: Pack) -> Image.Image:
    """Images of evenly spread classes of every split, with the names of the classes."""
    sheets = [_sheet(pack, name) for name in pack.manifest["splits"]]
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def _sheet(pack: Pack, name: str) -> Image.Image:
    split = pack.split(name)
    labels = np.unique(split.labels)
    chosen = labels[np.linspace(0, len(labels) - 1, min(SHOWN_CLASSES, len(labels))).round().astype(int)]
    sheet = Image.new(
        "RGB", (MARGIN + SHOWN_EACH * (TILE + MARGIN) + 140, CAPTION_HEIGHT + MARGIN + len(chosen) * (TILE + MARGIN)), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    made = ", made by image operations" if pack.synthetic else ""
    draw.text((MARGIN, 2), f"{pack.name}, {name}: {len(split)} images of {len(labels)} classes{made}", "black", font)
    for row, label in enumerate(chosen):
        top = CAPTION_HEIGHT + MARGIN + row * (TILE + MARGIN)
        for column, image in enumerate(_some(split, int(label))):
            sheet.paste(covered(image, TILE), (MARGIN + column * (TILE + MARGIN), top))
        draw.text((MARGIN + SHOWN_EACH * (TILE + MARGIN), top + TILE // 2 - 6), pack.classes[label][:20], "black", font)
    return sheet


def _some(split: Split, label: int) -> list[Image.Image]:
    """Images of a class, from all over its part of the split, so that every rendition has its chance."""
    members = np.flatnonzero(split.labels == label)
    chosen = members[np.linspace(0, len(members) - 1, min(SHOWN_EACH, len(members))).round().astype(int)]
    return [Image.fromarray(np.asarray(image)) for image in split.images[chosen]]
