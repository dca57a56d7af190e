"""What stands in an annotation file of COCO, and every way in which it can be wrong (detection.md 2)."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from m2mkd.data.segmentation import compressed, counted

MARGIN = 1.0
"""Pixels by which a coordinate may lie outside of its image: published ones were rounded, and some are a pixel too large."""
LARGEST_SIDE = 1 << 16
"""Pixels."""


Id = Annotated[int, Field(ge=0, lt=1 << 63)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class CocoRecord(BaseModel):
    """Numbers are numbers, and finite; further fields are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


R = TypeVar("R", bound=CocoRecord)


class Numbered(CocoRecord):
    """An item of a list."""

    id: Id


class Image(Numbered):
    """An image, whose pixels are in a file."""

    file_name: str = Field(min_length=1)
    height: Side
    width: Side


class Category(Numbered):
    """A class; their ids have gaps."""

    name: str = Field(min_length=1)


class RunLengths(CocoRecord):
    """A mask, column by column."""

    size: list[int] = Field(min_length=2, max_length=2)
    """Height and width."""
    counts: Annotated[
        Annotated[list[Annotated[int, Field(ge=0)]], Tag("lengths")] | Annotated[str, Tag("text")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "lengths"),
    ]
    """Lengths, alternately of background and of foreground; or COCO's text of them."""


class Annotation(Numbered):
    """An instance, or a crowd of them."""

    image_id: Id
    category_id: Id
    bbox: list[float] = Field(min_length=4, max_length=4)
    """Left, top, width and height in pixels."""
    area: float = Field(ge=0)
    """Of the mask, in pixels."""
    iscrowd: Annotated[int, Field(ge=0, le=1)]
    segmentation: Annotated[
        Annotated[list[list[float]], Tag("polygons")] | Annotated[RunLengths, Tag("run lengths")],
        Discriminator(lambda value: "run lengths" if isinstance(value, dict | RunLengths) else "polygons"),
    ]


TAGS = {"polygons", "run lengths", "lengths", "text"}
"""Of alternatives, which are no fields."""


def checked_records(kind: type[R], value: Any) -> R:
    """``value`` as a record.

    Raises
    ------
    ValueError
        In a few words, which field is wrong and how.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"] if part not in TAGS)
        if problem["type"] == "missing":
            raise ValueError(f"{field} is missing") from None
        if not field:
            raise ValueError(f"is no object but {_short(value)}") from None
        raise ValueError(f"{field}: {problem['msg'][0].lower()}{problem['msg'][1:]}, but it is {_short(problem['input'])}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def segmentation(annotation: Annotation, image: Image) -> list[list[float]] | dict[str, Any]:
    """Box and mask of an annotation, held against its image.

    Returns
    -------
    list or dict
        The polygons of at least three points; there may be none. Or compressed run lengths.

    Raises
    ------
    ValueError
        In a few words, what is wrong.
    """
    left, top, width, height = annotation.bbox
    if width < 0 or height < 0:
        raise ValueError(f"bbox has a negative size, {width} x {height}")
    _inside("bbox", [left, left + width], [top, top + height], image)
    if isinstance(annotation.segmentation, RunLengths):
        return {"size": [image.height, image.width], "counts": _whole(annotation.segmentation, image)}
    if annotation.iscrowd:
        raise ValueError("is a crowd with polygons, which has to have run lengths")
    if not annotation.segmentation:
        raise ValueError("segmentation holds no polygon")
    for number, polygon in enumerate(annotation.segmentation):
        if not polygon:
            raise ValueError(f"segmentation.{number} is an empty polygon")
        if len(polygon) % 2:
            raise ValueError(f"segmentation.{number} has an odd number of coordinates, {len(polygon)}")
        _inside(f"segmentation.{number}", polygon[0::2], polygon[1::2], image)
    return [polygon for polygon in annotation.segmentation if len(polygon) >= 6]


def _inside(field: str, x: Sequence[float], y: Sequence[float], image: Image) -> None:
    for numbers, side in ((x, image.width), (y, image.height)):
        if min(numbers) < -MARGIN or max(numbers) > side + MARGIN:
            reach = f"{field} reaches from {min(x):g}, {min(y):g} to {max(x):g}, {max(y):g}"
            raise ValueError(f"{reach}, out of image {image.id} of {image.width} x {image.height} pixels")


def _whole(runs: RunLengths, image: Image) -> str:
    """Compressed run lengths, seen to be of just as many pixels as the image has."""
    if runs.size != [image.height, image.width]:
        size = " x ".join(map(str, reversed(runs.size)))
        raise ValueError(f"segmentation has run lengths for {size} pixels, but image {image.id} has {image.width} x {image.height}")
    try:
        lengths = counted(runs.counts) if isinstance(runs.counts, str) else runs.counts
    except ValueError as error:
        raise ValueError(f"segmentation.counts are no run lengths ({error})") from None
    if min(lengths, default=0) < 0 or sum(lengths) != image.height * image.width:
        raise ValueError(f"segmentation.counts are of {sum(lengths)} pixels, but image {image.id} has {image.height * image.width}")
    return runs.counts if isinstance(runs.counts, str) else compressed(lengths, image.height, image.width)
