"""Scenes of digits: what the specification asks of them, on every one, and to the bit each time."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from m2mkd.config import load
from m2mkd.data.detection_pack import detection_split
from m2mkd.data.digits import enlarged, read_digits, split_digits
from m2mkd.data.digits_scenes import INSIDE, LEFT, SCENES, scene
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.segmentation import extent
from m2mkd.errors import InputError
from tests.conftest import ROOT

NAME, SIZE = "digits-scenes", 64
FIRST = "6d4134d879ef3697"
"""Digest of some pixels and of all masks, in which any change of library or code would show."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "key"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        prepare(NAME, load.datasets()[NAME], SIZE, folder)
    return folder


@pytest.fixture(scope="module")
def source():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        grey, labels, _ = read_digits(NAME, load.datasets()[NAME])
    return grey, labels


def test_they_are_what_the_specification_says(folder: Path, source):
    pack = open_pack(folder)
    assert pack.synthetic and pack.classes == tuple("0123456789")
    assert pack.manifest["source"]["category_ids"] == list(range(1, 11))
    counts = []
    for name, expected in (("train", 800), ("val", 100)):
        split = detection_split(pack, name)
        assert len(split) == expected == SCENES[name]
        assert split.trainable.tolist() == list(range(expected))
        for index in range(expected):
            image, instances = split.image(index), split.instances(index)
            assert image.shape == (SIZE, SIZE, 3)
            counts.append(len(instances))
            masks = [instance.mask() for instance in instances]
            assert np.sum(masks, axis=0).max() <= 1, "hidden pixels leave the mask"
            for instance, mask in zip(instances, masks, strict=True):
                left, top, right, bottom = extent(mask).tolist()
                assert instance.bbox == [left, top, right - left, bottom - top]
                assert instance.area == mask.sum() > 0
                assert not instance.iscrowd
                assert max(instance.bbox[2:]) <= 32
            lit = np.any(masks, axis=0)
            assert image[lit].max(axis=1).mean() > image[~lit].max(axis=1).mean() + 20
    assert set(counts) == {1, 2, 3}
    shares = np.bincount(counts)[1:] / len(counts)
    assert np.abs(shares - 1 / 3).max() < 0.06  # a place that is not found leaves one out now and then
    ids = [instance.id for name in SCENES for index in range(SCENES[name]) for instance in detection_split(pack, name).instances(index)]
    assert ids == list(range(1, len(ids) + 1))


def test_masks_are_where_the_digits_are(source):
    """Drawn anew from the source: a mask is a quarter of the ink of its digit, less what lies over it."""
    grey, labels = source
    chosen = split_digits(labels)[1]
    for index in range(40):
        _, digits = scene(grey, chosen, SIZE, NAME, "val", index)
        for digit in digits:
            assert digit.source in chosen
            assert LEFT * digit.pixels <= digit.mask.sum() <= digit.pixels
            if digit.mask.sum() < digit.pixels:
                continue
            left, top, right, bottom = extent(digit.mask).astype(int)
            shown = digit.mask[top:bottom, left:right]
            alike = []
            for side in range(18, 33):
                ink = enlarged(grey[digit.source], side)[..., 0] / 255 >= INSIDE
                x0, y0, x1, y1 = extent(ink).astype(int)
                alike.append(np.array_equal(ink[y0:y1, x0:x1], shown))
            assert any(alike)


def test_no_digit_is_in_both_splits(source):
    grey, labels = source
    seen = {
        name: {digit.source for index in range(SCENES[name]) for digit in scene(grey, chosen, SIZE, NAME, name, index)[1]}
        for name, chosen in zip(SCENES, split_digits(labels), strict=True)
    }
    assert seen["train"].isdisjoint(seen["val"])
    assert len(seen["train"]) > 800 and len(seen["val"]) > 100


def test_they_are_the_same_to_the_bit_and_each_alone(folder: Path, source, tmp_path: Path):
    prepare(NAME, load.datasets()[NAME], SIZE, tmp_path / "key")
    assert open_pack(tmp_path / "key").manifest == open_pack(folder).manifest
    grey, labels = source
    split = detection_split(open_pack(folder), "val")
    image, digits = scene(grey, split_digits(labels)[1], SIZE, NAME, "val", 77)
    np.testing.assert_array_equal(image, split.image(77))
    np.testing.assert_array_equal([digit.mask for digit in digits], [instance.mask() for instance in split.instances(77)])
    assert not np.array_equal(image, split.image(78))
    digest = hashlib.sha256(
        detection_split(open_pack(folder), "train").images[:8].tobytes() + (folder / "train.annotations.jsonl").read_bytes()
    )
    assert digest.hexdigest()[:16] == FIRST


def test_another_size_grows_everything(tmp_path: Path):
    prepare(NAME, load.datasets()[NAME], 32, tmp_path / "key")
    split = detection_split(open_pack(tmp_path / "key"), "val")
    assert split.image(0).shape == (32, 32, 3)
    sides = [max(instance.bbox[2:]) for index in range(len(split)) for instance in split.instances(index)]
    assert 8 < np.median(sides) <= max(sides) <= 16


def test_scenes_too_small_for_digits_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"digits-scenes@15: no digit is visible at that size; use at least digits-scenes@16"):
        prepare(NAME, load.datasets()[NAME], 15, tmp_path / "key")
    prepare(NAME, load.datasets()[NAME], 16, tmp_path / "key")
