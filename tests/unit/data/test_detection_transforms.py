"""Images of a detector and their instances: resized, flipped, cropped as recorded, and drawn as COCO draws."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from m2mkd.config.detection_input import DetectionInput, ScaleJitter, ShortestEdge
from m2mkd.data.detection_transforms import augmented, fitted_size, shortest_edge_size
from m2mkd.data.samples import Sample, cropped, flipped, resized, with_recomputed_boxes, without_empty
from m2mkd.data.segmentation import bitmap, compressed, counted, drawn, extent, from_run_lengths, run_lengths

RECORDED = {
    "resize_shortest_edge": ShortestEdge(sizes=(64, 72, 80), longest=100),
    "large_scale_jitter": ScaleJitter(target=64),
}
TEST_SIZE, TEST_LONGEST = 64, 80
DRAWN_ALIKE = 0.98
"""Least intersection over union of two drawings of a mask: the recorded outlines are rounded."""


def outlines(polygons):
    return tuple(np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons)


@pytest.fixture(scope="module")
def recorded(fixtures_dir):
    folder = fixtures_dir / "detection"
    with np.load(folder / "transforms.npz") as arrays:
        return json.loads((folder / "transforms.meta.json").read_text()), dict(arrays)


def annotated(meta, arrays, number):
    """An image of the recordings with its instances; crowds are not trained on."""
    kept = [annotation for annotation in meta[f"annotations.{number}"] if not annotation["iscrowd"]]
    boxes = np.array([annotation["bbox"] for annotation in kept], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Sample(
        arrays[f"image.{number}"].transpose(1, 2, 0),
        boxes.astype(np.float64),
        np.array([annotation["category_id"] for annotation in kept], np.int64),
        tuple(outlines(annotation["segmentation"]) for annotation in kept),
    )


def test_every_recorded_transform_is_replayed(recorded):
    """Draws, pixels, boxes and classes to the bit; outlines to the digits that are recorded."""
    meta, arrays = recorded
    assert {case["key"].split(".")[0] for case in meta["cases"]} == {*RECORDED, "test_resize"}
    for case in meta["cases"]:
        key, kind = case["key"], case["key"].split(".")[0]
        sample = annotated(meta, arrays, case["input"])
        if kind == "test_resize":
            sample = resized(sample, *shortest_edge_size(*sample.size, TEST_SIZE, TEST_LONGEST))
        else:
            sample = augmented(sample, RECORDED[kind], np.random.RandomState(case["numpy_seed"]))
        assert list(sample.size) == case["size"], key
        pixels = sample.image[..., ::-1] if case["channels"] == "BGR" else sample.image
        np.testing.assert_array_equal(pixels.transpose(2, 0, 1), arrays[f"{key}.image"], key)
        if f"{key}.boxes" not in arrays:
            continue
        np.testing.assert_array_equal(sample.boxes.astype(np.float32), arrays[f"{key}.boxes"], key)
        np.testing.assert_array_equal(sample.classes, arrays[f"{key}.classes"], key)
        assert len(sample.segmentations) == len(case["polygons"])
        for ours, theirs in zip(sample.segmentations, case["polygons"], strict=True):
            masks = bitmap(ours, *sample.size), drawn(outlines(theirs), *sample.size)
            assert np.sum(masks[0] & masks[1]) >= DRAWN_ALIKE * np.sum(masks[0] | masks[1]), key


def test_sizes_are_rounded_as_released():
    """In one step instead of two the shorter side would have 667 and 28 pixels."""
    assert shortest_edge_size(150, 75, 672, 1333) == (1333, 666)
    assert shortest_edge_size(88, 320, 64, 100) == (27, 100)
    assert shortest_edge_size(480, 640, 800, 1333) == (800, 1067)
    assert shortest_edge_size(3, 2, 3, 9) == (5, 3)  # half up
    assert fitted_size(480, 640, 1024, 1.0) == (768, 1024)
    assert fitted_size(1, 300, 64, 0.1) == (1, 6)
    assert fitted_size(100, 40, 5, 1.0) == (5, 2)  # half to even
    assert fitted_size(100, 60, 25, 1.0) == (25, 15)


@pytest.fixture(scope="module")
def operators(fixtures_dir):
    folder = fixtures_dir / "detection"
    return json.loads((folder / "ops.meta.json").read_text()), load_file(folder / "ops.safetensors")


def test_recorded_masks_are_drawn(operators):
    meta, arrays = operators
    height, width = meta["mask_targets.height_width"]
    polygons = [outlines(parts) for parts in meta["mask_targets.polygons"]]
    expected = np.unpackbits(arrays["mask_targets.full"].numpy(), axis=1)[:, : height * width].reshape(-1, height, width)
    bitmaps = [drawn(parts, height, width) for parts in polygons]
    np.testing.assert_array_equal(bitmaps, expected)
    for kind, masks in (("polygon", polygons), ("bitmask", bitmaps)):
        boxes = np.array([extent(mask) for mask in masks], np.float32)
        np.testing.assert_array_equal(boxes, arrays[f"mask_targets.tight_boxes_{kind}"].numpy())


def test_run_lengths_are_read_and_written(operators):
    meta, _ = operators
    height, width = meta["mask_targets.height_width"]
    masks = [drawn(outlines(parts), height, width) for parts in meta["mask_targets.polygons"]]
    masks += [np.zeros((height, width), bool), np.ones((height, width), bool), np.indices((height, width)).sum(axis=0) % 2 == 0]
    for mask, runs in zip(masks, run_lengths(masks), strict=True):
        np.testing.assert_array_equal(from_run_lengths(runs), mask)
        lengths = counted(runs["counts"])
        columns = mask.ravel(order="F")
        changes = np.flatnonzero(np.diff(columns.astype(int))) + 1
        expected = np.diff([0, *changes, len(columns)]).tolist()
        assert lengths == ([0, *expected] if columns[0] else expected)
        assert compressed(lengths, height, width) == runs["counts"]


@pytest.mark.parametrize(
    ("text", "message"), [("a", "end inside a length"), ("1 2", "' ' is not allowed here"), ("o" * 20, "is not allowed")]
)
def test_a_text_that_is_no_run_lengths(text, message):
    with pytest.raises(ValueError, match=message):
        counted(text)


def square(kind):
    """A square from 10 to 20 in an image of 40 x 30 pixels, as an outline or as a bitmap."""
    image = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3)
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:20] = True
    outline = (np.array([[10.0, 10], [20, 10], [20, 20], [10, 20]]),)
    return Sample(image, np.array([[10.0, 10, 20, 20]]), np.array([3]), (outline if kind == "outline" else mask,))


@pytest.mark.parametrize("kind", ["outline", "bitmap"])
def test_outlines_and_bitmaps_move_alike(kind):
    sample = square(kind)
    for moved, box in (
        (resized(sample, 60, 80), [20, 20, 40, 40]),
        (resized(sample, 15, 20), [5, 5, 10, 10]),
        (flipped(sample), [20, 10, 30, 20]),
        (cropped(sample, 15, 5, 10, 10), [0, 5, 5, 10]),
        (cropped(resized(flipped(sample), 60, 80), 30, 0, 64, 64), [10, 20, 30, 40]),
    ):
        assert moved.boxes.tolist() == [box]
        assert with_recomputed_boxes(moved).boxes.tolist() == [box]
        mask = bitmap(moved.segmentations[0], *moved.size)
        assert mask.shape == moved.size == moved.image.shape[:2]
        assert extent(mask).tolist() == box and mask.sum() == (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize("kind", ["outline", "bitmap"])
def test_an_instance_that_is_cut_off_goes_and_an_image_may_have_none(kind):
    left = without_empty(with_recomputed_boxes(cropped(square(kind), 25, 0, 10, 10)))
    assert left.boxes.shape == (0, 4) and left.classes.shape == (0,) and left.segmentations == ()
    assert left.image.shape == (10, 10, 3)


def test_an_outline_that_a_window_cuts_in_two_has_two_parts():
    """The letter U, of which the window shows the upper ends of both legs."""
    letter = np.array([[0.0, 0], [2, 0], [2, 8], [6, 8], [6, 0], [8, 0], [8, 10], [0, 10]])
    sample = Sample(np.zeros((12, 12, 3), np.uint8), np.array([[0.0, 0, 8, 10]]), np.array([0]), ((letter,),))
    (parts,) = cropped(sample, 0, 0, 12, 4).segmentations
    assert sorted(extent((part,)).tolist() for part in parts) == [[0, 0, 2, 4], [6, 0, 8, 4]]


def test_of_an_outline_that_crosses_itself_a_part_is_left():
    """A bow tie, of which the released code keeps the loop that is drawn the other way round."""
    bow = np.array([[0.0, 0], [8, 8], [8, 0], [0, 8]])
    sample = Sample(np.zeros((12, 12, 3), np.uint8), np.array([[0.0, 0, 8, 8]]), np.array([0]), ((bow,),))
    (parts,) = cropped(sample, 0, 0, 12, 4).segmentations
    assert extent(parts).tolist() == [4, 0, 8, 4]


def test_a_factor_out_of_order_is_refused():
    with pytest.raises(ValueError, match="swap them"):
        ScaleJitter(scale=(2.0, 0.1))
    assert DetectionInput.model_validate({"augmentation": {"kind": "shortest_edge"}}).augmentation == ShortestEdge()
