"""Average precision: as recorded, and against cases that are counted by hand."""

import json

import numpy as np
import pytest

from m2mkd.data.annotations import Instance
from m2mkd.data.detection_pack import detection_split
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.segmentation import bitmap, compressed, run_lengths
from m2mkd.evaluation.average_precision import RECALLS, AveragePrecision, Predictions, Truth, average_precision, truth_of
from m2mkd.study.measurements import PRECISIONS
from tests.coco import files, healthy, registered, write_archive

SIDE = 200
CLASSES = ("cat", "dog", "hen")


def box_mask(box) -> dict:
    left, top, right, bottom = map(int, box)
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, top:bottom, left:right] = True
    return run_lengths(mask)[0]


def instance(box, label=0, iscrowd=0) -> Instance:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return Instance(0, label, [left, top, width, height], width * height, iscrowd, box_mask(box))


def detections(image, *found) -> Predictions:
    """Each a box, a score and a class; masks fill their boxes."""
    boxes, scores, classes = zip(*found, strict=True)
    return Predictions(image, boxes, scores, classes, [box_mask(box) for box in boxes])


def measured(truth, found, kind="boxes", **options) -> AveragePrecision:
    return average_precision([Truth(SIDE, SIDE, each) for each in truth], found, CLASSES, kind, **options)


@pytest.mark.parametrize(("kind", "name"), [("boxes", "bbox"), ("masks", "segm")])
def test_the_recorded_numbers(fixtures_dir, kind, name):
    recorded = json.loads((fixtures_dir / "detection/ap.json").read_text())
    assert recorded["order"] == list(PRECISIONS)
    source, found, order = recorded["ground_truth"], [], sorted(category["id"] for category in recorded["ground_truth"]["categories"])
    truth = {image["id"]: Truth(image["height"], image["width"], []) for image in source["images"]}
    for each in source["annotations"]:
        mask = each["segmentation"]
        if isinstance(mask, dict) and isinstance(mask["counts"], list):
            mask = {"size": mask["size"], "counts": compressed(mask["counts"], *mask["size"])}
        one = Instance(each["id"], order.index(each["category_id"]), each["bbox"], each["area"], each["iscrowd"], mask)
        truth[each["image_id"]].instances.append(one)
    for place, number in enumerate(truth):
        here = [each for each in recorded["detections"] if each["image_id"] == number]
        boxes = np.array([each["bbox"] for each in here]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [order.index(each["category_id"]) for each in here]
        found.append(Predictions(place, boxes, [each["score"] for each in here], labels, [each["segmentation"] for each in here]))
    # They were read from a file that has boxes beside masks, so that the box decides on the size of a detection.
    result = average_precision(list(truth.values()), found, list(map(str, order)), kind, "boxes")
    for ours, theirs in ((result.numbers, "pycocotools"), (result.per_class, "per_category")):
        expected = recorded["pycocotools"][name if theirs == "pycocotools" else f"{name}_per_category"]
        np.testing.assert_allclose([-1 if number is None else number for number in ours.values()], expected, rtol=0, atol=1e-9)
    assert any(one.iscrowd for each in truth.values() for one in each.instances)
    assert None in result.numbers.values() and max(result.curve(0.5)) > 0.9


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_everything_found(kind):
    small, large = (10, 10, 30, 30), (50, 50, 190, 190)
    result = measured([[instance(small)], [instance(large, 1)]], [detections(0, (small, 0.3, 0)), detections(1, (large, 0.2, 1))], kind)
    assert result.numbers == pytest.approx({name: None if name in ("APm", "ARm") else 1.0 for name in PRECISIONS})
    assert result.per_class == pytest.approx({"cat": 1.0, "dog": 1.0, "hen": None})
    np.testing.assert_allclose(result.curve(0.75), np.ones(101))


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_nothing_found_and_nothing_to_find(kind):
    nothing = measured([[instance((10, 10, 30, 30))], []], [], kind)
    assert (nothing.numbers["AP"], nothing.numbers["AR100"], nothing.numbers["APl"]) == (0.0, 0.0, None)
    assert nothing.per_class == {"cat": 0.0, "dog": None, "hen": None}
    empty = measured([[], []], [detections(1, ((10, 10, 30, 30), 0.9, 0))], kind)
    assert set(empty.numbers.values()) == {None}
    assert not empty.curve(0.5).any()


def test_a_false_one_between_two_right_ones():
    """Precision is 1 up to a recall of one half, which is 51 of 101 places, then 2 of 3."""
    one, other, wrong = (10, 10, 60, 60), (80, 80, 140, 140), (10, 100, 60, 150)
    result = measured([[instance(one), instance(other)]], [detections(0, (one, 0.9, 0), (other, 0.7, 0), (wrong, 0.8, 0))])
    assert result.numbers["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result.numbers["AR1"] == pytest.approx(1 / 2) and result.numbers["AR10"] == 1
    np.testing.assert_allclose(result.curve(0.5), np.where(RECALLS <= 0.5, 1, 2 / 3))


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_how_well_it_is_placed_decides_at_how_many_thresholds(kind):
    """Two boxes of 100 x 50, the second 7 lower: 43 of 57 rows are common, which is 0.754, so 6 of the 10 thresholds."""
    result = measured([[instance((20, 20, 120, 70))]], [detections(0, ((20, 27, 120, 77), 0.5, 0))], kind)
    assert result.numbers["AP"] == pytest.approx(0.6)
    assert (result.numbers["AP50"], result.numbers["AP75"], result.numbers["AR100"]) == pytest.approx((1, 1, 0.6))
    assert (result.curve(0.75)[0], result.curve(0.8)[0]) == pytest.approx((1, 0))


def test_masks_differ_where_boxes_do_not():
    """Of a right angle and of the square around it, one third is common to both: 0.36 of the mask, all of the box."""
    angle = np.zeros((1, SIDE, SIDE), bool)
    angle[0, 10:110, 10:30] = angle[0, 90:110, 10:110] = True
    box = (10, 10, 110, 110)
    truth = [[Instance(1, 0, [10, 10, 100, 100], float(angle.sum()), 0, run_lengths(angle)[0])]]
    found = [detections(0, (box, 0.9, 0))]
    assert measured(truth, found, "boxes").numbers["AP"] == pytest.approx(1)
    assert measured(truth, found, "masks").numbers["AP50"] == 0


def test_the_second_of_two_for_one_and_another_class_are_false():
    box = (10, 10, 60, 60)
    twice = measured([[instance(box)], [instance(box)]], [detections(0, (box, 0.9, 0), (box, 0.8, 0)), detections(1, (box, 0.7, 0))])
    assert twice.numbers["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    other = measured([[instance(box)]], [detections(0, (box, 0.9, 1))])
    assert other.per_class == {"cat": 0.0, "dog": None, "hen": None}


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_in_a_crowd_nothing_is_wrong(kind):
    box, crowd, inside = (10, 10, 40, 40), (60, 60, 190, 190), ((70, 70, 100, 100), (120, 120, 160, 160))
    found = [detections(0, (box, 0.5, 0), *((each, 0.9, 0) for each in inside))]
    assert measured([[instance(box), instance(crowd, 0, 1)]], found, kind).numbers["AP"] == pytest.approx(1)
    without = measured([[instance(box)]], found, kind).numbers["AP"]
    assert without == pytest.approx(1 / 3)


@pytest.mark.parametrize(("size", "expected"), [(None, 1.0), ("boxes", 0.5)])
def test_whose_size_decides_what_is_false_among_small_ones(size, expected):
    """A false mask of few pixels in a large box comes first: as a mask it counts among the small ones, as a box it does not."""
    box, wide = (10, 10, 30, 30), (60, 60, 190, 190)
    sparse = np.zeros((1, SIDE, SIDE), bool)
    sparse[0, 60, 60:190] = sparse[0, 60:190, 60] = True
    found = Predictions(0, [box, wide], [0.5, 0.9], [0, 0], [box_mask(box), run_lengths(sparse)[0]])
    assert sparse.sum() < 32**2 < 130**2
    result = measured([[instance(box)]], [found], "masks", size=size).numbers["APs"]
    assert result == pytest.approx(1.5 - expected)


def test_an_order_of_images_and_detections_changes_nothing():
    generator = np.random.default_rng(0)
    truth, found = [], []
    for image in range(12):
        corners = generator.integers(0, 120, (4, 2))
        boxes = np.concatenate([corners, corners + generator.integers(20, 80, (4, 2))], axis=1)
        labels = generator.integers(0, 3, 4)
        truth.append([instance(box.tolist(), int(label)) for box, label in zip(boxes, labels, strict=True)])
        moved = np.clip(boxes + generator.integers(-12, 13, boxes.shape), 0, SIDE)
        found.append(detections(image, *zip(moved.tolist(), generator.permutation(400)[:4] / 400, labels.tolist(), strict=True)))
    first = measured(truth, found)
    turned = [Predictions(each.image, each.boxes[::-1], each.scores[::-1], each.classes[::-1], each.masks[::-1]) for each in found[::-1]]
    assert 0.1 < first.numbers["AP"] < 0.9
    assert measured(truth, turned).numbers == first.numbers
    np.testing.assert_allclose(np.nanmean(first.precision, axis=(0, 1)), list(first.per_class.values()))
    assert first.numbers["AP"] == pytest.approx(np.mean(list(first.per_class.values())))


def test_the_truth_of_a_split_finds_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw").mkdir(parents=True)
    sets = healthy()
    sets["val"]["annotations"][0]["segmentation"] = [[10, 5, 20, 5]]  # of which nothing can be drawn
    write_archive(tmp_path / "data/raw/set.zip", files(sets))
    prepare("set", registered(), 64, tmp_path / "key", processes=1)
    pack = open_pack(tmp_path / "key")
    for name, expected in (("train", 1.0), ("val", 0.0)):
        truth = truth_of(detection_split(pack, name))
        assert [(each.height, each.width) for each in truth] == [(30, 40)] * 3
        found = []
        for image, each in enumerate(truth):
            boxes = np.array([one.bbox for one in each.instances]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            masks = [bitmap(one.mask(), each.height, each.width) for one in each.instances]
            labels = [one.label for one in each.instances]
            found.append(Predictions(image, boxes, np.ones(len(boxes)), labels, run_lengths(masks) if masks else ()))
        boxes, masks = (average_precision(truth, found, pack.classes, kind) for kind in ("boxes", "masks"))
        assert boxes.per_class == pytest.approx(dict.fromkeys(pack.classes, 1.0))
        assert masks.per_class == pytest.approx({"person": 1.0, "stop sign": 1.0, "toothbrush": expected})
