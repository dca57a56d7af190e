"""Masks of instances in COCO's conventions: drawn from polygons, and kept as run lengths.

An instance is outlined by polygons, as people draw them, or has a bitmap, as a program makes it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Polygons: TypeAlias = tuple[NDArray[np.float64], ...]
"""Outlines (P, 2) of the parts of one instance, x and y in pixels, each of at least three points."""
Bitmap: TypeAlias = NDArray[np.bool_]
"""(H, W)."""
Segmentation: TypeAlias = Polygons | Bitmap


def drawn(polygons: Sequence[NDArray[np.float64]], height: int, width: int) -> Bitmap:
    """Union of polygons drawn by COCO's rasteriser, bool (H, W)."""
    from pycocotools import mask

    outlines = [points.reshape(-1) for points in polygons if len(points) > 2]  # it interprets two points as a box
    if not outlines:
        return np.zeros((height, width), np.bool_)
    return mask.decode(mask.merge(mask.frPyObjects(outlines, height, width))).astype(np.bool_)


def bitmap(segmentation: Segmentation, height: int, width: int) -> Bitmap:
    """Mask of an instance, bool (H, W)."""
    return segmentation if isinstance(segmentation, np.ndarray) else drawn(segmentation, height, width)


def run_lengths(masks: ArrayLike) -> list[dict[str, Any]]:
    """Masks (N, H, W) as COCO's compressed run lengths: ``size`` (H, W), and ``counts`` as text."""
    from pycocotools import mask

    columns = np.asfortranarray(np.asarray(masks, np.uint8).transpose(1, 2, 0))
    return [{"size": list(runs["size"]), "counts": runs["counts"].decode()} for runs in mask.encode(columns)]


def from_run_lengths(runs: Mapping[str, Any]) -> Bitmap:
    """Mask from COCO's compressed run lengths, bool (H, W); they must be complete, see `counted`."""
    from pycocotools import mask

    return mask.decode(dict(runs)).astype(np.bool_)


def counted(text: str) -> list[int]:
    """Run lengths in COCO's compressed text, alternating between background and foreground.

    Each is written in groups of five bits, lowest first; a sixth bit says that another group follows. From the fourth length, the
    difference to the one two before it is written.

    Raises
    ------
    ValueError
        If the text ends inside a length, or holds other characters.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError(f"'{character}' is not allowed here")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("they end inside a length")
    return lengths


def compressed(lengths: Sequence[int], height: int, width: int) -> str:
    """Run lengths as COCO's compressed text."""
    from pycocotools import mask

    return mask.frPyObjects({"counts": list(lengths), "size": [height, width]}, height, width)["counts"].decode()


def extent(segmentation: Segmentation) -> NDArray[np.float64]:
    """Box x0 y0 x1 y1 around an instance, (4,): from the first pixel of a bitmap to one after the last; zeros if it is empty."""
    if isinstance(segmentation, np.ndarray):
        rows, columns = np.flatnonzero(segmentation.any(axis=1)), np.flatnonzero(segmentation.any(axis=0))
        if not len(rows):
            return np.zeros(4)
        return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    if not segmentation:
        return np.zeros(4)
    points = np.concatenate(segmentation)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])
