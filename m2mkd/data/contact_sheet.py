"""Contact sheet of a data set: images of some classes, with their names."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from m2mkd.data.detection_pack import DetectionSplit, detection_split
from m2mkd.data.images import covered
from m2mkd.data.overlay import Mark, overlaid
from m2mkd.data.pack import Pack, Split
from m2mkd.data.segmentation import bitmap
from m2mkd.files import write_atomically

SHOWN_CLASSES, SHOWN_EACH = 12, 6
TILE, CAPTION_HEIGHT, MARGIN = 72, 16, 6
SHOWN_SCENES, ACROSS, LONGEST_SIDE = 12, 4, 240
"""Number of images with boxes and masks, number of images per row, and the longer side of each in pixels."""


def write_contact_sheet(pack: Pack, path: Path) -> None:
    """Write the contact sheet of a set as a PNG; see `contact_sheet`."""
    write_atomically(path, partial(contact_sheet(pack).save, format="PNG"))


def contact_sheet(pack: Pack) -> Image.Image:
    """Images of evenly spread classes of every split, with the names of the classes; or images with their boxes and masks."""
    return stacked([(_instances if "instances" in facts else _sheet)(pack, name) for name, facts in pack.manifest["splits"].items()])


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets of several splits, one below the other."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def _sheet(pack: Pack, name: str) -> Image.Image:
    split = pack.split(name)
    rows = [(pack.classes[label], _some(split, label)) for label in chosen_labels(split.labels)]
    return labelled_sheet(_title(pack, f"{name}: {len(split)} images of {len(np.unique(split.labels))} classes"), rows)


def chosen_labels(labels: NDArray[np.int64]) -> list[int]:
    """Evenly spread classes of a split, in order; all of them if there are few."""
    known = np.unique(labels)
    return known[np.linspace(0, len(known) - 1, min(SHOWN_CLASSES, len(known))).round().astype(int)].tolist()


def labelled_sheet(title: str, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Rows of images, each with the name of its class, below a title."""
    sheet = Image.new("RGB", (MARGIN + SHOWN_EACH * (TILE + MARGIN) + 140, CAPTION_HEIGHT + MARGIN + len(rows) * (TILE + MARGIN)), "white")
    draw, font = _titled(sheet, title)
    for row, (name, images) in enumerate(rows):
        top = CAPTION_HEIGHT + MARGIN + row * (TILE + MARGIN)
        for column, image in enumerate(images):
            sheet.paste(covered(image, TILE), (MARGIN + column * (TILE + MARGIN), top))
        draw.text((MARGIN + SHOWN_EACH * (TILE + MARGIN), top + TILE // 2 - 6), name[:20], "black", font)
    return sheet


def _title(pack: Pack, text: str) -> str:
    return f"{pack.name}, {text}" + (", made by image operations" if pack.synthetic else "")


def _titled(sheet: Image.Image, title: str) -> tuple[ImageDraw.ImageDraw, Any]:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((MARGIN, 2), title, "black", font)
    return draw, font


def _instances(pack: Pack, name: str) -> Image.Image:
    """Images with instances from the whole split, with all their annotations."""
    split, facts = detection_split(pack, name), pack.facts(name)
    there = np.flatnonzero(np.diff(split.starts) > len(b"[]\n"))
    chosen = there[np.linspace(0, len(there) - 1, min(SHOWN_SCENES, len(there))).round().astype(int)].tolist()
    rows = -(-len(chosen) // ACROSS)
    sheet = Image.new("RGB", (MARGIN + ACROSS * (LONGEST_SIDE + MARGIN), CAPTION_HEIGHT + MARGIN + rows * (LONGEST_SIDE + MARGIN)), "white")
    _titled(sheet, _title(pack, f"{name}: {len(split)} images, {facts['instances']} instances, {facts['crowds']} crowds"))
    for place, index in enumerate(chosen):
        image = split.image(index)
        marks = truth_marks(split, index, pack.classes, *image.shape[:2])
        corner = MARGIN + place % ACROSS * (LONGEST_SIDE + MARGIN), CAPTION_HEIGHT + MARGIN + place // ACROSS * (LONGEST_SIDE + MARGIN)
        sheet.paste(overlaid(image, marks, LONGEST_SIDE), corner)
    return sheet


def truth_marks(split: DetectionSplit, index: int, classes: Sequence[str], height: int, width: int) -> list[Mark]:
    """Annotations of an image of the given size, to be drawn on it."""
    marks = []
    for instance in split.instances(index):
        left, top, across, down = instance.bbox
        caption = ("crowd of " if instance.iscrowd else "") + classes[instance.label]
        marks.append(Mark((left, top, left + across, top + down), bitmap(instance.mask(), height, width), instance.label, caption))
    return marks


def _some(split: Split, label: int) -> list[Image.Image]:
    """Images of a class from its whole part of the split, so that every rendition may appear."""
    members = np.flatnonzero(split.labels == label)
    chosen = members[np.linspace(0, len(members) - 1, min(SHOWN_EACH, len(members))).round().astype(int)]
    return [Image.fromarray(np.asarray(image)) for image in split.images[chosen]]
