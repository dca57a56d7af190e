"""Packed sets: what is written is what is read, at random, in parts, and in other processes."""

import errno
import hashlib
import mmap
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.data import packing
from m2mkd.data.pack import Split, open_pack, stratified_share
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.errors import InputError
from tests.unit.data.small_pack import FILES, IMAGES, KINDS, LABELS, SIZE, flip, png, written


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "deep" / "set@6" / "key")


def test_what_was_written_is_read(folder):
    pack = open_pack(folder)
    train, val = pack.split("train"), pack.split("val")
    assert (pack.name, pack.image_size, pack.classes, pack.synthetic) == ("set", SIZE, ("ant", "bee", "cat"), True)
    assert pack.manifest["source"]["file"] == "made here"
    assert pack.manifest["splits"]["train"] == {
        "images": 6,
        "per_class": [2, 2, 2],
        "attributes": ["sha256"],
        "storage": "pixels",
        "final": True,
    }
    assert [digest.tobytes() for digest in train.attributes["sha256"]] == [hashlib.sha256(image.tobytes()).digest() for image in IMAGES[:6]]
    assert isinstance(train.images, np.memmap)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    np.testing.assert_array_equal(train.images, IMAGES[:6])
    np.testing.assert_array_equal(val.labels, LABELS[6:])
    np.testing.assert_array_equal(val.attributes["kind"], KINDS)
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert sorted(file.name for file in folder.parent.iterdir()) == [".key.verified", "key"]


def test_files_are_read_once_and_again_when_they_have_changed(folder):
    open_pack(folder)
    labels = folder / "val.labels.npy"
    flip(labels)
    assert open_pack(folder).name == "set", "nothing says that it has changed"
    labels.touch()
    for verify in ("once", "always"):
        with pytest.raises(InputError, match=r"val\.labels\.npy is damaged: its sha256 differs"):
            open_pack(folder, verify=verify)


def test_where_nothing_can_be_noted_a_set_is_opened_all_the_same(folder):
    (folder.parent / ".key.verified").mkdir()
    assert open_pack(folder).name == open_pack(folder).name == "set"


def test_on_a_file_system_without_memory_maps_a_set_is_read_whole(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refuse)
    images = open_pack(folder).split("train").images
    assert not isinstance(images, np.memmap)
    np.testing.assert_array_equal(images, IMAGES[:6])


def test_a_split_that_is_absent_is_named(folder):
    with pytest.raises(InputError, match="no split 'test'; it has train, val"):
        open_pack(folder).split("test")


def test_a_set_that_is_not_there_says_how_it_is_made(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=rf"{folder}/manifest\.json: missing; run 'm2mkd data prepare set@6' first"):
        open_pack(folder)


def test_encoded_images_are_read_at_random_and_in_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 300)
    sizes = [IMAGES[i][: 3 + i % 3] for i in range(9)]
    source = SplitSource(lambda start: [PackedImage(png(image), bytes(32)) for image in sizes[start:]], LABELS, {}, "encoded", final=False)
    write_pack(tmp_path / "key", "set", SIZE, Content(("ant", "bee", "cat"), {"train": source}, {}))
    split = open_pack(tmp_path / "key").split("train")
    assert len(list((tmp_path / "key").glob("*.shard"))) > 1
    for images in (split.images, pickle.loads(pickle.dumps(split.images))):
        for indices in ([8, 0, 3], slice(2, 5)):
            for found, expected in zip(images[indices], np.array(sizes, dtype=object)[indices], strict=True):
                np.testing.assert_array_equal(found, expected)
    assert len(split.first(4).images) == len(split.first(4).labels) == 4
    np.testing.assert_array_equal(split.take([5]).images[0], sizes[5])


def test_take_copies_the_chosen_images():
    split = Split(IMAGES, LABELS, {"source": np.arange(9)})
    taken = split.take([4, 1])
    np.testing.assert_array_equal(taken.images, IMAGES[[4, 1]])
    np.testing.assert_array_equal(taken.attributes["source"], [4, 1])
    assert not np.shares_memory(taken.images, IMAGES)


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=6), share=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_a_share_is_stratified(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    chosen = stratified_share(labels, share, ("data", seed))
    np.testing.assert_array_equal(chosen, np.unique(chosen))
    for label, count in enumerate(counts):
        assert np.sum(labels[chosen] == label) == (max(1, round(share * count)) if count else 0)
    np.testing.assert_array_equal(chosen, stratified_share(labels, share, ("data", seed)))
    assert set(chosen) <= set(stratified_share(labels, 1.0, ("data", seed)))


def test_a_share_depends_on_its_names_and_is_nested():
    labels = np.repeat([0, 1], 50)
    small, large, other = (stratified_share(labels, s, (n,)) for s, n in ((0.2, "a"), (0.5, "a"), (0.2, "b")))
    assert set(small) < set(large)
    assert set(small) != set(other)
    assert set(small - 50) & set(range(50)) != set(small) & set(range(50))  # each class is drawn for itself
