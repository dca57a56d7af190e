"""A small data set in the layout of COCO, to be written as archives, whole or damaged."""

import io
import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2mkd.config.datasets import DatasetConfig, SourceFile

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person", "supercategory": "person"}, {"id": 13, "name": "stop sign"}]
"""Not in the order of their ids, and with gaps."""
SQUARE = [10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]
WIDTH, HEIGHT = 40, 30
Annotated = dict[str, Any]


def photograph(number: int, width: int = WIDTH, height: int = HEIGHT, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def record(number: int, **changes: Any) -> Annotated:
    return {"id": number, "file_name": f"{number:012}.jpg", "width": WIDTH, "height": HEIGHT, "license": 4} | changes


def annotation(number: int, image: int, category: int = 1, **changes: Any) -> Annotated:
    known = {"id": number, "image_id": image, "category_id": category, "bbox": [10.0, 5.0, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
    return known | {"segmentation": [SQUARE]} | changes


def runs(first: int, inside: int, width: int = WIDTH, height: int = HEIGHT) -> Annotated:
    """A mask of one run of pixels, column by column."""
    return {"size": [height, width], "counts": [first, inside, width * height - first - inside]}


def annotated(images: tuple[int, ...]) -> Annotated:
    """One split: the first image has instances of every kind, the second a crowd, the third nothing."""
    first, crowded, _ = images
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 4, "name": "none"}],
        "images": [record(number) for number in images],
        "annotations": [
            annotation(101, first, 90),
            annotation(102, first, 1, segmentation=[SQUARE, [0, 0, 5, 0, 5, 5]], bbox=[0, 0, 20, 15], area=112),
            annotation(103, crowded, 13, iscrowd=1, segmentation=runs(60, 30), bbox=[2, 0, 1, 30]),
            annotation(104, first, 13, segmentation=runs(0, 30), bbox=[0, 0, 1, 30], area=30),
        ],
        "categories": deepcopy(CATEGORIES),
    }


TRAIN, VAL = (7, 3, 5), (11, 12, 13)


def healthy() -> dict[str, Annotated]:
    return {"train": annotated(TRAIN), "val": annotated(VAL)}


def files(sets: dict[str, Annotated | str]) -> dict[str, bytes]:
    """Every file of a data set by its name; annotations that are text already are taken as they are."""
    found = {
        f"{split}2017/{number:012}.jpg": photograph(number) for split, numbers in (("train", TRAIN), ("val", VAL)) for number in numbers
    }
    for split, content in sets.items():
        found[f"annotations/instances_{split}2017.json"] = (content if isinstance(content, str) else json.dumps(content)).encode()
    return found


def write_archive(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def registered(*names: str, classes: int = len(CATEGORIES)) -> DatasetConfig:
    sources = tuple(SourceFile(name=name) for name in names or ("set.zip",))
    return DatasetConfig(title="A set", layout="coco", classes=classes, licence="none", files=sources)
