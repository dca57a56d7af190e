"""Detections drawn next to the ground truth."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m2mkd.data.contact_sheet import truth_marks
from m2mkd.data.detection_pack import DetectionSplit, detection_split
from m2mkd.data.overlay import Mark, overlaid
from m2mkd.data.pack import open_pack
from m2mkd.data.segmentation import from_run_lengths
from m2mkd.errors import InputError
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.records import Record
from m2mkd.results.report.pictures import QUALITY, Picture
from m2mkd.results.tables.detection import detectors
from m2mkd.study.phases import EvaluateDetector

SHOWN_IMAGES = 4
"""Rows of a sheet."""
SIDE = 200
"""Longer side of each image in pixels."""
GAP, HEADING = 6, 16


def detection_pictures(collected: Collected) -> list[Picture]:
    """Draw a sheet for the first seed of each detector; a data set that is absent, as after a pull of results only, is left out."""
    pictures = []
    for row in detectors(collected):
        record = next((collected.by_run[run_id] for run_id in row.measured if run_id in collected.by_run), None)
        sheet = None if record is None else detections_sheet(record)
        if record is not None and sheet is not None:
            pictures.append(_picture(f"{row.experiment}-{row.variant}-{row.profile}", str(row.name), record, sheet))
    return pictures


def detections_sheet(record: Record) -> Image.Image | None:
    """Images of the validation set, a row each: annotations on the left, detections on the right; none if the set is absent."""
    config = record.run.config
    assert isinstance(config, EvaluateDetector)
    try:
        pack = open_pack(Path(config.data.folder), verify="never")
        split = detection_split(pack, "val")
    except InputError:
        return None
    rows = [_row(split, pack.classes, example) for example in record.metrics["examples"][:SHOWN_IMAGES]]
    sheet = Image.new("RGB", (2 * SIDE + GAP, HEADING + len(rows) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(HEADING - 4)
    for column, title in enumerate(("truth", "detections")):
        draw.text((column * (SIDE + GAP), 0), title, "black", font)
    for number, pair in enumerate(rows):
        for column, image in enumerate(pair):
            sheet.paste(image, (column * (SIDE + GAP), HEADING + number * (SIDE + GAP)))
    return sheet


def _row(split: DetectionSplit, classes: tuple[str, ...], example: Mapping[str, Any]) -> tuple[Image.Image, Image.Image]:
    index, (height, width) = example["image"], example["size"]
    image, truth = split.image(index), truth_marks(split, index, classes, height, width)
    found = [
        Mark(np.array(box), from_run_lengths({"size": [height, width], "counts": counts}), label, f"{classes[label]} {100 * score:.0f}")
        for box, score, label, counts in zip(example["boxes"], example["scores"], example["classes"], example["masks"], strict=True)
    ]
    return overlaid(image, truth, SIDE), overlaid(image, found, SIDE)


def _picture(name: str, title: str, record: Record, sheet: Image.Image) -> Picture:
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=QUALITY)
    seed = "" if record.run.seed is None else f" of seed {record.run.seed}"
    return Picture(
        name,
        *sheet.size,
        f"Detections of {title} next to the ground truth: images of the validation set, annotations on the left, detections on the right.",
        f"{title}: the ground truth on the left; on the right the detections{seed} with a score above one half, with scores in percent.",
        f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}",
    )
