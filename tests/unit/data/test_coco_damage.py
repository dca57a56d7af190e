"""Every way in which a set in the layout of COCO can be wrong, and the one line that is said of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m2mkd.data.archives import open_archive
from m2mkd.data.coco_layout import coco
from m2mkd.data.prepare import prepare
from m2mkd.errors import InputError
from tests.archives import refused
from tests.coco import HEIGHT, SQUARE, WIDTH, annotation, files, healthy, photograph, record, registered, runs, write_archive

Change = Callable[[dict[str, Any]], Any]


def train(change: Change) -> dict[str, Any]:
    """The annotation files, with that of the training images changed; what the change gives is taken in its place."""
    sets: dict[str, Any] = healthy()
    changed = change(sets["train"])
    return sets | {"train": changed} if isinstance(changed, str) else sets


def last(**changes: Any) -> dict[str, Any]:
    """One more annotation, which is wrong; its id is 17."""
    return train(lambda found: found["annotations"].append(annotation(17, 7) | changes))


def text(change: Callable[[str], str]) -> dict[str, Any]:
    return train(lambda found: change(json.dumps(found)))


def without(kind: str, number: int, field: str) -> dict[str, Any]:
    return train(lambda found: found[kind][number].__delitem__(field))


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown image": (last(image_id=999), "annotation 17: image_id 999 is not the id of an image"),
    "unknown category": (last(category_id=2), "annotation 17: category_id 2 is not the id of a category"),
    "unknown file": (train(lambda found: found["images"].append(record(8))), r"image 8: train2017/000000000008\.jpg is not in any archive"),
    "file out of the folder": (
        train(lambda found: found["images"].append(record(8, file_name="../val2017/000000000011.jpg"))),
        r"image 8: .* is not in any archive",
    ),
    "box outside": (last(bbox=[45.0, 5.0, 10.0, 10.0]), r"annotation 17: bbox reaches from 45, 5 to 55, 15, out of image 7 of 40 x 30"),
    "box partly outside": (last(bbox=[10.0, 5.0, 10.0, 27.0]), "annotation 17: bbox reaches .* out of image 7"),
    "box left of the image": (last(bbox=[-3.0, 5.0, 10.0, 10.0]), "annotation 17: bbox reaches .* out of image 7"),
    "box of a negative size": (last(bbox=[10.0, 5.0, -4.0, 10.0]), r"annotation 17: bbox has a negative size, -4\.0 x 10\.0"),
    "box of three numbers": (last(bbox=[10.0, 5.0, 4.0]), "annotation 17: bbox: list should have at least 4 items"),
    "box of texts": (last(bbox=["10", 5, 4, 4]), "annotation 17: bbox.0: input should be a valid number, but it is '10'"),
    "box that is not a list": (last(bbox=None), "annotation 17: bbox: input should be a valid list, but it is None"),
    "NaN in a box": (last(bbox=[10.0, float("nan"), 4.0, 4.0]), "annotation 17: bbox.1: input should be a finite number, but it is nan"),
    "infinite area": (last(area=float("inf")), "annotation 17: area: input should be a finite number"),
    "negative area": (last(area=-1.0), "annotation 17: area: input should be greater than or equal to 0"),
    "no polygon": (last(segmentation=[]), "annotation 17: segmentation holds no polygon"),
    "empty polygon": (last(segmentation=[SQUARE, []]), r"annotation 17: segmentation\.1 is an empty polygon"),
    "odd number of coordinates": (last(segmentation=[SQUARE[:-1]]), r"segmentation\.0 has an odd number of coordinates, 7"),
    "polygon outside": (last(segmentation=[[*SQUARE, 50.0, 5.0]]), r"segmentation\.0 reaches from 10, 5 to 50, 15, out of image 7"),
    "NaN in a polygon": (last(segmentation=[[*SQUARE, 5.0, float("nan")]]), r"segmentation\.0\.9: input should be a finite number"),
    "polygon of points": (last(segmentation=[[[10, 5], [20, 5], [20, 15]]]), r"segmentation\.0\.0: input should be a valid number"),
    "segmentation that is text": (last(segmentation="none"), "annotation 17: segmentation: input should be a valid list"),
    "crowd with polygons": (last(iscrowd=1), "annotation 17: is a crowd with polygons, but crowds need run lengths"),
    "crowd that is neither yes nor no": (last(iscrowd=2), "annotation 17: iscrowd: input should be less than or equal to 1"),
    "run lengths of another size": (
        last(iscrowd=1, segmentation=runs(60, 30, HEIGHT, WIDTH)),
        "annotation 17: segmentation has run lengths for 30 x 40 pixels, but image 7 has 40 x 30",
    ),
    "run lengths that are too short": (
        last(segmentation=runs(60, 30) | {"counts": [60, 30, 9]}),
        r"annotation 17: segmentation\.counts cover 99 pixels, but image 7 has 1200",
    ),
    "negative run length": (last(segmentation=runs(60, -30)), r"segmentation\.counts\.1: input should be greater than or equal to 0"),
    "run lengths of a text cut off": (last(segmentation={"size": [30, 40], "counts": "l1no"}), "annotation 17: .* are not run lengths"),
    "run lengths of a strange text": (last(segmentation={"size": [30, 40], "counts": "l1 é"}), "annotation 17: .* are not run lengths"),
    "run lengths of a negative text": (last(segmentation={"size": [30, 40], "counts": "N`U1"}), r"17: segmentation\.counts cover"),
    "run lengths without a size": (last(segmentation={"counts": [1200]}), r"annotation 17: segmentation\.size is missing"),
    "annotation without an image": (without("annotations", 1, "image_id"), "annotation 102: image_id is missing"),
    "annotation without an id": (without("annotations", 1, "id"), r"annotations\[1\]: id is missing"),
    "annotation that is a list": (
        train(lambda found: found["annotations"].append([1, 2])),
        r"annotations\[4\]: is not an object but \[1, 2\]",
    ),
    "id that is text": (last(id="17"), r"annotations\[4\]: id: input should be a valid integer, but it is '17'"),
    "id that is beyond all bounds": (last(id=10**30), "id: input should be less than"),
    "annotation that stands twice": (last(id=101), "annotation 101: its id is not unique"),
    "image that stands twice": (
        train(lambda found: found["images"].append(record(7, file_name="x.jpg"))),
        "image 7: its id is not unique",
    ),
    "file that stands twice": (
        train(lambda found: found["images"].append(record(8, file_name="000000000007.jpg"))),
        r"image 8: file_name 000000000007\.jpg is also that of another image",
    ),
    "category that stands twice": (
        train(lambda found: found["categories"].append({"id": 13, "name": "sign"})),
        "category 13: its id is not unique",
    ),
    "name of two categories": (
        train(lambda found: found["categories"].append({"id": 14, "name": "person"})),
        "category 14: name 'person' is also that of another category",
    ),
    "category without a name": (without("categories", 1, "name"), "category 1: name is missing"),
    "image without a height": (without("images", 0, "height"), "image 7: height is missing"),
    "image of no height": (train(lambda found: found["images"][0].update(height=0)), "image 7: height: input should be greater"),
    "image of half a pixel": (
        train(lambda found: found["images"][0].update(width=40.5)),
        "image 7: width: input should be a valid integer",
    ),
    "image of another size": (
        train(lambda found: found["images"][2].update(height=31)),
        r"train2017/000000000005\.jpg has 40 x 30 pixels, but image 5 is annotated as 40 x 31",
    ),
    "other categories in val": (
        train(lambda found: found["categories"].pop(2)),
        "annotation 103: category_id 13 is not the id of a category",
    ),
    "other names in val": (
        train(lambda found: found["categories"][2].update(name="sign")),
        "the categories of train and val differ",
    ),
    "no images": (train(lambda found: found.pop("images")), "holds no images"),
    "no annotations": (train(lambda found: found["annotations"].clear()), "holds no annotations"),
    "no categories": (train(lambda found: found.pop("categories")), "holds no categories"),
    "images that are no list": (train(lambda found: found.update(images={"7": {}})), "'images' is not a list"),
    "truncated JSON": (text(lambda found: found[: found.index('"categories"') - 40]), r"annotations\[3\] is damaged or cut off"),
    "JSON cut off between items": (
        text(lambda found: found[: found.index(', {"id": 102')]),
        "ends before the end of 'annotations', after its 1 items",
    ),
    "JSON without its end": (text(lambda found: found[:-1]), "ends before the end of the object, after 'categories'"),
    "JSON with a hole": (
        text(lambda found: found.replace('"bbox": ', '"bbox" ', 1)),
        r"annotations\[0\] is damaged or cut off \(Expecting ':'",
    ),
    "JSON that goes on": (text(lambda found: found + "{}"), "has '{' after the end of the object"),
    "a list of annotations": (train(lambda found: json.dumps(found["annotations"])), "'\\[' instead of the beginning of an object"),
    "an empty file": (train(lambda found: ""), "ends before the beginning of an object"),
    "no JSON": (train(lambda found: "<html>not found</html>"), "'<' instead of the beginning of an object"),
    "nests without end": (train(lambda found: '{"annotations": [' + "[" * 100_000), r"annotations\[0\] is damaged or cut off"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_with_its_place(raw: Path, damage: str):
    sets, message = DAMAGE[damage]
    write_archive(raw / "set.zip", files(sets))
    with pytest.raises(InputError, match=message) as caught:
        prepare("set", registered(), 64, Path("packed/key"), processes=1)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 400
    assert said.startswith("data/raw/set.zip: ") and ";" in said, "names the archive, and says how to mend it"
    assert not list(Path("packed").glob("*")), "no set, whole or partial"


def test_there_are_more_than_fifteen_kinds():
    assert len(DAMAGE) + 6 > 50


FILES: dict[str, tuple[dict[str, bytes | None], str]] = {
    "image that is cut off": ({"train2017/000000000003.jpg": photograph(3)[:500]}, r"train2017/000000000003\.jpg is not a complete image"),
    "image that is empty": ({"train2017/000000000003.jpg": b""}, r"000000000003\.jpg is empty"),
    "image that is absent": ({"val2017/000000000011.jpg": None}, r"image 11: val2017/000000000011\.jpg is not in any archive"),
    "no training annotations": ({"annotations/instances_train2017.json": None}, r"annotations/instances_train2017\.json is missing"),
    "annotations in another code": ({"annotations/instances_val2017.json": '{"é": 1}'.encode("latin1")}, "can't decode byte"),
    "two sets in one": ({"more/annotations/instances_val2017.json": b"{}"}, "is a second file of val annotations"),
}


@pytest.mark.parametrize("damage", FILES)
def test_damaged_files_are_one_line(raw: Path, damage: str):
    changes, message = FILES[damage]
    content = {name: data for name, data in (files(healthy()) | changes).items() if data is not None}
    write_archive(raw / "set.zip", content)
    with pytest.raises(InputError, match=message) as caught:
        prepare("set", registered(), 64, Path("packed/key"), processes=1)
    assert "\n" not in str(caught.value)
    assert not list(Path("packed").glob("*"))


def test_damaged_bytes_of_an_annotation_file(raw: Path):
    write_archive(raw / "set.zip", files(healthy()))
    archive = open_archive(raw / "set.zip", raw)
    content = bytearray((raw / "set.zip").read_bytes())
    name = b"annotations/instances_train2017.json"
    start = content.index(name) + len(name) + 100
    content[start : start + 40] = bytes(40)
    (raw / "set.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"set\.zip: .*annotations/instances_train2017\.json"):
        coco([archive], raw / "scratch")


def test_the_command_ends_without_a_traceback(raw: Path):
    sets, message = DAMAGE["odd number of coordinates"]
    write_archive(raw / "set.zip", files(sets))
    refused(registered(), message)
