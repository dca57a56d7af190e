"""Renditions of held-out digits, and of any image: small synthetic out-of-distribution sets in the style of ImageNet-R."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from m2mkd.config.datasets import DatasetConfig
from m2mkd.data.digits import CLASSES, enlarged, read_digits, split_digits
from m2mkd.data.packing import Content, SplitSource
from m2mkd.seeds import derive_seed

DIGITS = (0, 2, 3, 5, 7, 8)
"""Classes with renditions; the others are left out, so that the class mask matters (ImageNet-R has 200 of 1000)."""
ANGLES = (15.0, 35.0)
"""Smallest and largest rotation in degrees, in either direction."""


def prepare_renditions(name: str, dataset: DatasetConfig, image_size: int) -> Content:
    """Prepare every validation digit of the chosen classes in each rendition; there is no training split.

    The attributes of its split are ``rendition`` (name) and ``source`` (index of the digit in the source file).

    Raises
    ------
    InputError
        If the source is missing or differs from the registered file.
    """
    grey, labels, source = read_digits(name, dataset)
    held_out = split_digits(labels)[1]
    held_out = held_out[np.isin(labels[held_out], DIGITS)]

    def images(start: int) -> Iterator[NDArray[np.uint8]]:
        for rendition, index in list(itertools.product(RENDITIONS, held_out))[start:]:
            generator = np.random.default_rng(derive_seed("data", name, rendition, int(index)))
            yield RENDITIONS[rendition](enlarged(grey[index], image_size), generator)

    attributes = {"rendition": np.repeat(list(RENDITIONS), len(held_out)), "source": np.tile(held_out, len(RENDITIONS))}
    split = SplitSource(images, np.tile(np.searchsorted(DIGITS, labels[held_out]), len(RENDITIONS)), attributes)
    made = {"made_by": "image operations on the validation digits", "renditions": list(RENDITIONS)}
    return Content(tuple(CLASSES[digit] for digit in DIGITS), {"val": split}, {**source, **made})


def edges(image: NDArray[np.uint8], _: np.random.Generator) -> NDArray[np.uint8]:
    """Edges of the image, white on black."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)
    slope = ndimage.gaussian_gradient_magnitude(grey, sigma=len(image) / 32)
    return _rgb(slope * (255 / max(slope.max(), 1e-12)))


def inverted(image: NDArray[np.uint8], _: np.random.Generator) -> NDArray[np.uint8]:
    """Image with light and dark inverted."""
    return 255 - image


def textured(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Image with one coloured texture in light areas, and another one in dark areas."""
    strokes = image / 255
    return _rgb(strokes * _texture(len(image), 190, generator) + (1 - strokes) * _texture(len(image), 65, generator))


def rotated(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Image rotated by a moderate angle, in either direction."""
    angle = generator.uniform(*ANGLES) * generator.choice((-1, 1))
    return np.asarray(Image.fromarray(image).rotate(angle, resample=Image.Resampling.BICUBIC))


RENDITIONS: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]] = {
    "edges": edges,
    "inverted": inverted,
    "textured": textured,
    "rotated": rotated,
}


def _texture(side: int, mean: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Blotches of colour around a mean grey, (side, side, 3)."""
    noise = ndimage.gaussian_filter(generator.standard_normal((side, side, 3)), sigma=(side / 16, side / 16, 0), mode="wrap")
    return mean + 35 * noise / noise.std()


def _rgb(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Image rounded to uint8; a grey image (S, S) becomes (S, S, 3)."""
    colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8)
