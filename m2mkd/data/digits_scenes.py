"""Scenes of handwritten digits: a small detection and segmentation set, made without a download (detection-small.md)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2mkd.config.datasets import DatasetConfig
from m2mkd.data.annotations import AnnotationTable, Instance
from m2mkd.data.detection_pack import DetectionSource
from m2mkd.data.digits import CLASSES, read_digits, split_digits
from m2mkd.data.pack import PIXELS
from m2mkd.data.packing import Content
from m2mkd.data.segmentation import extent, run_lengths
from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed

SCENES = {"train": 800, "val": 100}
CANVAS = 64
"""Side in pixels that the lengths here refer to."""
DIGITS = (1, 3)
"""Minimum and maximum number of digits on a scene."""
SIDES = (18, 32)
"""Smallest and largest side of a digit in pixels."""
GROUND, RAMP, NOISE = 50, 30, 6
"""Lightest base colour of the ground; maximum rise or fall along an axis; standard deviation of the noise. Of 255 each."""
INK = (150, 255)
"""Darkest and lightest ink."""
INSIDE = 0.25
"""Minimum ink of a pixel that belongs to a digit, 0 to 1."""
LEFT = 0.8
"""Minimum share of its pixels that a digit keeps when others cover it."""
TRIES = 20
SMALLEST_SCENE = 16
"""Side in pixels of a scene whose digits are at least four pixels wide."""


class Digit(NamedTuple):
    """Digit on a scene."""

    source: int
    """Row in the source file."""
    pixels: int
    """Number of pixels, including hidden ones."""
    mask: NDArray[np.bool_]
    """Visible pixels, (S, S)."""


def prepare_scenes(name: str, dataset: DatasetConfig, image_size: int) -> Content:
    """Prepare scenes with one to three digits, which may overlap slightly; no digit is in both splits.

    Raises
    ------
    InputError
        If the source is missing or differs from the registered file, or the scenes are too small for digits.
    """
    if image_size < SMALLEST_SCENE:
        raise InputError(f"{name}@{image_size}: no digit is visible at that size; use at least {name}@{SMALLEST_SCENE}")
    grey, labels, source = read_digits(name, dataset)
    splits = {}
    number = 0
    for split, chosen in zip(SCENES, split_digits(labels), strict=True):
        count = SCENES[split]
        table = AnnotationTable(count, len(CLASSES))
        for index in range(count):
            for digit in scene(grey, chosen, image_size, name, split, index)[1]:
                number += 1
                left, top, right, bottom = extent(digit.mask).tolist()
                box = [left, top, right - left, bottom - top]
                (runs,) = run_lengths([digit.mask])
                table.add(index, Instance(number, int(labels[digit.source]), box, float(digit.mask.sum()), 0, runs))

        def images(start: int, split=split, chosen=chosen, count=count) -> Iterator[NDArray[np.uint8]]:
            return (scene(grey, chosen, image_size, name, split, index)[0] for index in range(start, count))

        sides = np.full(count, image_size)
        splits[split] = DetectionSource(images, table, {"id": np.arange(count), "height": sides, "width": sides}, PIXELS)
    made = {"made_by": "digits pasted on grounds of colour", "category_ids": [int(digit) + 1 for digit in CLASSES]}
    return Content(CLASSES, splits, {**source, **made})


def scene(grey: NDArray[np.uint8], chosen: NDArray[np.int64], size: int, *names: str | int) -> tuple[NDArray[np.uint8], list[Digit]]:
    """Make one scene, independent of all other scenes.

    Parameters
    ----------
    grey
        Digits, (N, 8, 8), from 0 to 255.
    chosen
        Candidates for the scene.
    size
        Side S of the scene in pixels; everything on it scales with it.
    names
        Names that seed the scene: name of the set, split and index.

    Returns
    -------
    tuple
        Image, uint8 (S, S, 3), and its digits from the lowest to the topmost.
    """
    generator = np.random.default_rng(derive_seed("data", *names))
    canvas = _ground(generator, size)
    digits: list[Digit] = []
    for _ in range(generator.integers(*DIGITS, endpoint=True)):
        source = int(generator.choice(chosen))
        ink = generator.uniform(*INK, 3)
        side = int(generator.integers(*SIDES, endpoint=True)) * size // CANVAS
        alpha = np.asarray(Image.fromarray(grey[source]).resize((side, side), Image.Resampling.BICUBIC)) / 255
        for _ in range(TRIES):
            left, top = generator.integers(0, size - side, 2, endpoint=True)
            over = np.zeros((size, size), np.float64)
            over[top : top + side, left : left + side] = alpha
            mask = over >= INSIDE
            if all(np.sum(digit.mask & ~mask) >= LEFT * digit.pixels for digit in digits):
                canvas = (1 - over[..., None]) * canvas + over[..., None] * ink
                digits = [digit._replace(mask=digit.mask & ~mask) for digit in digits] + [Digit(source, int(mask.sum()), mask)]
                break
    canvas += generator.normal(0, NOISE, canvas.shape)
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8), digits


def _ground(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Colour that changes evenly along both axes, (S, S, 3)."""
    base, across, down = generator.uniform(0, GROUND, 3), generator.uniform(-RAMP, RAMP, 3), generator.uniform(-RAMP, RAMP, 3)
    along = np.linspace(0, 1, size)[:, None]
    return base + along * across + along[:, None] * down
