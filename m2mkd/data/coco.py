"""Reader of COCO's annotation files of any size: checked item by item, and kept image by image."""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from m2mkd.data.annotations import AnnotationTable, Instance
from m2mkd.data.coco_records import Annotation, Category, Image, Numbered, checked_records, segmentation
from m2mkd.data.json_stream import read_lists
from m2mkd.errors import InputError

MEND = "correct the file, or fetch the archive again"
ITEMS = {"images": "image", "categories": "category", "annotations": "annotation"}
"""Name of an item of each list."""
N = TypeVar("N", bound=Numbered)
Opened = Callable[[], AbstractContextManager[IO[bytes]]]


class AnnotationFile(NamedTuple):
    """Content of an annotation file."""

    categories: tuple[Category, ...]
    """Class names by ascending id; the class of an instance is its category's index here."""
    images: tuple[Image, ...]
    """Images by ascending id."""
    table: AnnotationTable
    """Instances of each image."""


def read_annotations(opened: Opened, where: str) -> AnnotationFile:
    """Read an annotation file.

    Parameters
    ----------
    opened
        Opens the file, which is read twice because its lists may come in any order.
    where
        Name of the file in messages.

    Raises
    ------
    InputError
        At the first error, in one line with the id of the image, category or annotation.
    """
    images, categories = _images_and_categories(opened, where)
    place = {record.id: number for number, record in enumerate(images)}
    label = {category.id: number for number, category in enumerate(categories)}
    table = AnnotationTable(len(images), len(categories))
    ids = array("q")

    def keep(item: Any) -> None:
        annotation = checked_records(Annotation, item)
        if annotation.image_id not in place:
            raise ValueError(f"image_id {annotation.image_id} is not the id of an image")
        if annotation.category_id not in label:
            raise ValueError(f"category_id {annotation.category_id} is not the id of a category")
        number = place[annotation.image_id]
        mask = segmentation(annotation, images[number])
        class_ = label[annotation.category_id]
        table.add(number, Instance(annotation.id, class_, annotation.bbox, annotation.area, annotation.iscrowd, mask))
        ids.append(annotation.id)

    _each(opened, where, {"annotations": keep})
    if not ids:
        raise InputError(f"{where}: holds no annotations; fetch the archive of the right data set")
    # Checked once for all ids, as an array: a set would take as much memory as a large part of the annotations.
    found, count = np.unique(np.asarray(ids, np.int64), return_counts=True)
    if len(twice := found[count > 1]):
        raise InputError(f"{where}: annotation {twice[0]}: its id is not unique; {MEND}")
    return AnnotationFile(categories, images, table)


def _images_and_categories(opened: Opened, where: str) -> tuple[tuple[Image, ...], tuple[Category, ...]]:
    images: dict[int, Image] = {}
    categories: dict[int, Category] = {}
    files: set[str] = set()
    names: set[str] = set()

    def keep_image(item: Any) -> None:
        image = checked_records(Image, item)
        if image.file_name in files:
            raise ValueError(f"file_name {image.file_name} is also that of another image")
        _add(images, image)
        files.add(image.file_name)

    def keep_category(item: Any) -> None:
        category = checked_records(Category, item)
        if category.name in names:
            raise ValueError(f"name '{category.name}' is also that of another category")
        _add(categories, category)
        names.add(category.name)

    _each(opened, where, {"images": keep_image, "categories": keep_category})
    for kind, records in (("images", images), ("categories", categories)):
        if not records:
            raise InputError(f"{where}: holds no {kind}; fetch the archive of the right data set")
    return tuple(images[key] for key in sorted(images)), tuple(categories[key] for key in sorted(categories))


def _add(records: dict[int, N], record: N) -> None:
    if record.id in records:
        raise ValueError("its id is not unique")
    records[record.id] = record


def _each(opened: Opened, where: str, wanted: Mapping[str, Callable[[Any], None]]) -> None:
    """Pass every item of the wanted lists to its function; its errors become one line with the item's id."""
    with opened() as file:
        items = read_lists(file, wanted)
        read = Counter[str]()
        while True:
            title = ""
            try:
                name, item = next(items)
                known = item.get("id") if isinstance(item, dict) else None
                title = f"{ITEMS[name]} {known}: " if isinstance(known, int) else f"{name}[{read[name]}]: "
                wanted[name](item)
                read[name] += 1
            except StopIteration:
                return
            except ValueError as error:
                raise InputError(f"{where}: {title}{error}; {MEND}") from None
