"""Sample of an image with its instances, and its geometry: resized, flipped, cropped (detection.md 2).

Outlines and boxes are transformed as coordinates, in float64; bitmaps as pixels, by nearest neighbour.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2mkd.data.segmentation import Polygons, Segmentation, extent

NO_SIDE = 1e-5
"""Longest side in pixels of a box that counts as empty."""


@dataclass(frozen=True)
class Sample:
    """Image with its G instances."""

    image: NDArray[np.uint8]
    """(H, W, 3)."""
    boxes: NDArray[np.float64]
    """x0 y0 x1 y1 in pixels, (G, 4)."""
    classes: NDArray[np.int64]
    """(G,), from 0."""
    segmentations: tuple[Segmentation, ...]
    """Outlines or bitmaps, G of them."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]


def resized_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Image (H, W, 3) at another size: bilinear, with averaging when it becomes smaller."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resized(sample: Sample, height: int, width: int) -> Sample:
    """Sample at another size."""
    scale = np.array([width / sample.size[1], height / sample.size[0]])

    def moved(segmentation: Segmentation) -> Segmentation:
        if isinstance(segmentation, np.ndarray):
            return np.asarray(Image.fromarray(segmentation).resize((width, height), Image.Resampling.NEAREST))
        return tuple(points * scale for points in segmentation)

    image = resized_image(sample.image, height, width)
    return replace(sample, image=image, boxes=sample.boxes * np.tile(scale, 2), segmentations=tuple(map(moved, sample.segmentations)))


def flipped(sample: Sample) -> Sample:
    """Mirror image of the sample, with left and right exchanged."""
    width = sample.size[1]

    def moved(segmentation: Segmentation) -> Segmentation:
        if isinstance(segmentation, np.ndarray):
            return np.ascontiguousarray(segmentation[:, ::-1])  # contiguous for torch
        return tuple(points * [-1, 1] + [width, 0] for points in segmentation)

    boxes = sample.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
    return replace(sample, image=sample.image[:, ::-1], boxes=boxes, segmentations=tuple(map(moved, sample.segmentations)))


def cropped(sample: Sample, left: int, top: int, width: int, height: int) -> Sample:
    """Part of the sample in a window; a window larger than the image shows all of it, without padding.

    An outline is cut along the window, and may fall into several parts; holes are filled, parts without area are removed.
    """
    corner = np.array([left, top], np.float64)

    def moved(segmentation: Segmentation) -> Segmentation:
        if isinstance(segmentation, np.ndarray):
            return segmentation[top : top + height, left : left + width]
        return tuple(points - corner for points in _cut(segmentation, left, top, width, height))

    boxes = np.clip(sample.boxes - np.tile(corner, 2), 0, [width, height, width, height])
    image = sample.image[top : top + height, left : left + width]
    return replace(sample, image=image, boxes=boxes, segmentations=tuple(map(moved, sample.segmentations)))


def _cut(polygons: Polygons, left: int, top: int, width: int, height: int) -> Polygons:
    import shapely

    window = shapely.box(left, top, left + width, top + height)
    parts: list[NDArray[np.float64]] = []
    for points in polygons:
        # A self-intersecting outline cannot be cut; a buffer of zero repairs it.
        shape = shapely.Polygon(points).buffer(0)
        if not shape.is_valid:
            continue
        for part in shapely.get_parts(shape.intersection(window)):
            if isinstance(part, shapely.Polygon) and not part.is_empty:
                parts.append(np.asarray(part.exterior.coords)[:-1])
    return tuple(parts)


def clipped(sample: Sample) -> Sample:
    """Sample with its boxes clipped to the image."""
    height, width = sample.size
    return replace(sample, boxes=np.clip(sample.boxes, 0, [width, height, width, height]))


def with_recomputed_boxes(sample: Sample) -> Sample:
    """Sample with boxes around its masks; annotated boxes may include parts that have been cut off."""
    boxes = np.array([extent(segmentation) for segmentation in sample.segmentations], np.float64).reshape(-1, 4)
    return replace(sample, boxes=boxes)


def without_empty(sample: Sample) -> Sample:
    """Sample without instances that have no box, outline or pixel left; there may be none left."""
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).astype(np.float32)
    there = [bool(np.any(mask)) if isinstance(mask, np.ndarray) else bool(mask) for mask in sample.segmentations]
    kept = np.flatnonzero((sides > NO_SIDE).all(axis=1) & np.array(there, np.bool_))
    segmentations = tuple(sample.segmentations[index] for index in kept)
    return replace(sample, boxes=sample.boxes[kept], classes=sample.classes[kept], segmentations=segmentations)
