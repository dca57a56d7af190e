"""Records of a COCO annotation file, with all checks on them (detection.md 2)."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from m2mkd.data.segmentation import compressed, counted

MARGIN = 1.0
"""Pixels by which a coordinate may be outside of its image: published ones were rounded, and some are a pixel too large."""
LARGEST_SIDE = 1 << 16
"""Pixels."""


Id = Annotated[int, Field(ge=0, lt=1 << 63)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class CocoRecord(BaseModel):
    """Base of all records: numbers must be finite numbers; further fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


R = TypeVar("R", bound=CocoRecord)


class Numbered(CocoRecord):
    """Item of a list."""

    id: Id


class Image(Numbered):
    """Image whose pixels are in a file."""

    file_name: str = Field(min_length=1)
    height: Side
    width: Side


class Category(Numbered):
    """Class; the ids have gaps."""

    name: str = Field(min_length=1)


class RunLengths(CocoRecord):
    """Mask, column by column."""

    size: list[int] = Field(min_length=2, max_length=2)
    """Height and width."""
    counts: Annotated[
        Annotated[list[Annotated[int, Field(ge=0)]], Tag("lengths")] | Annotated[str, Tag("text")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "lengths"),
    ]
    """Lengths, alternating between background and foreground; or COCO's text of them."""


class Annotation(Numbered):
    """Instance, or a crowd of instances."""

    image_id: Id
    category_id: Id
    bbox: list[float] = Field(min_length=4, max_length=4)
    """Left, top, width and height in pixels."""
    area: float = Field(ge=0)
    """Area of the mask, in pixels."""
    iscrowd: Annotated[int, Field(ge=0, le=1)]
    segmentation: Annotated[
        Annotated[list[list[float]], Tag("polygons")] | Annotated[RunLengths, Tag("run lengths")],
        Discriminator(lambda value: "run lengths" if isinstance(value, dict | RunLengths) else "polygons"),
    ]


TAGS = {"polygons", "run lengths", "lengths", "text"}
"""Names that pydantic gives to alternatives, which are not fields."""


def checked_records(kind: type[R], value: Any) -> R:
    """Validate ``value`` as a record.

    Raises
    ------
    ValueError
        With a short description of the wrong field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"] if part not in TAGS)
        if problem["type"] == "missing":
            raise ValueError(f"{field} is missing") from None
        if not field:
            raise ValueError(f"is not an object but {_short(value)}") from None
        raise ValueError(f"{field}: {problem['msg'][0].lower()}{problem['msg'][1:]}, but it is {_short(problem['input'])}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def segmentation(annotation: Annotation, image: Image) -> list[list[float]] | dict[str, Any]:
    """Box and mask of an annotation, checked against its image.

    Returns
    -------
    list or dict
        Polygons of at least three points, possibly none; or compressed run lengths.

    Raises
    ------
    ValueError
        With a short description of the error.
    """
    left, top, width, height = annotation.bbox
    if width < 0 or height < 0:
        raise ValueError(f"bbox has a negative size, {width} x {height}")
    _inside("bbox", [left, left + width], [top, top + height], image)
    if isinstance(annotation.segmentation, RunLengths):
        return {"size": [image.height, image.width], "counts": _whole(annotation.segmentation, image)}
    if annotation.iscrowd:
        raise ValueError("is a crowd with polygons, but crowds need run lengths")
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
    """Compressed run lengths, checked to cover exactly the pixels of the image."""
    if runs.size != [image.height, image.width]:
        size = " x ".join(map(str, reversed(runs.size)))
        raise ValueError(f"segmentation has run lengths for {size} pixels, but image {image.id} has {image.width} x {image.height}")
    try:
        lengths = counted(runs.counts) if isinstance(runs.counts, str) else runs.counts
    except ValueError as error:
        raise ValueError(f"segmentation.counts are not run lengths ({error})") from None
    if min(lengths, default=0) < 0 or sum(lengths) != image.height * image.width:
        raise ValueError(f"segmentation.counts cover {sum(lengths)} pixels, but image {image.id} has {image.height * image.width}")
    return runs.counts if isinstance(runs.counts, str) else compressed(lengths, image.height, image.width)
