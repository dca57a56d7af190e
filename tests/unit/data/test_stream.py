"""The training stream: what it depends on, and what it does not."""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.config.recipe import Recipe
from m2mkd.data.pack import ENCODED, PIXELS, Split, open_pack
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.stream import TrainStream, mirrored_part
from m2mkd.errors import InputError
from tests.unit.data.small_pack import png
from tests.unit.data.streams import EVERYTHING, PLAIN, SPLIT, all_gather, same, stream


def test_a_batch_has_its_shapes():
    batch = next(stream(**EVERYTHING).epoch(0))
    assert batch.images.shape == (16, 3, 16, 16)
    assert batch.images.dtype == torch.float32
    assert batch.targets.shape == (16, 5)
    assert batch.labels.dtype == batch.ids.dtype == torch.int64
    assert batch.labels.tolist() == SPLIT.labels[batch.ids.numpy()].tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    assert same(list(stream(**EVERYTHING).epoch(3)), list(stream(**EVERYTHING, workers=workers).epoch(3)))


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (2, 1), (2, 2)])
def test_ranks_change_nothing(ranks, workers):
    whole = list(stream(**EVERYTHING).epoch(3))
    parts = [list(stream(**EVERYTHING, workers=workers, rank=rank, ranks=ranks).epoch(3)) for rank in range(ranks)]
    assert all(len(batch.ids) == 16 // ranks for part in parts for batch in part)
    assert same(whole, [all_gather(step) for step in zip(*parts, strict=True)])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same images in packs, as pixels and as files in shards."""
    splits = {}
    for storage in (PIXELS, ENCODED):
        images = [PackedImage(image.tobytes() if storage == PIXELS else png(image), bytes(32)) for image in SPLIT.images]
        source = SplitSource(lambda start, images=images: images[start:], SPLIT.labels, {}, storage, final=False)
        folder = tmp_path_factory.mktemp("pack") / storage
        write_pack(folder, "digits", 16, Content(tuple("abcde"), {"train": source}, {}))
        splits[storage] = open_pack(folder).split("train")
    return splits


@pytest.mark.parametrize("storage", [PIXELS, ENCODED])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 1), (1, 2), (2, 0), (2, 2)])
def test_packs_give_the_same_batches_from_any_step_on(stored, storage, ranks, workers):
    whole = list(stream(**EVERYTHING).epoch(3))
    streams = [stream(**EVERYTHING, split=stored[storage], workers=workers, rank=rank, ranks=ranks) for rank in range(ranks)]
    for start in (0, 2):
        parts = [list(each.epoch(3, start)) for each in streams]
        assert same(whole[start:], [all_gather(step) for step in zip(*parts, strict=True)])


@pytest.mark.parametrize("mixing", [{"mixup": 0}, {"cutmix": 0}, {"mixup": 0, "cutmix": 0}])
def test_mixing_is_that_of_the_global_batch(mixing):
    whole = list(stream(**mixing).epoch(0))
    parts = [list(stream(**mixing, rank=rank, ranks=2).epoch(0)) for rank in range(2)]
    assert same(whole, [all_gather(step) for step in zip(*parts, strict=True)])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_was_left_gives_way_to_the_next(workers):
    expected, left = list(stream().epoch(5)), stream(workers=workers)
    old = left.epoch(4)
    next(old)
    new = left.epoch(5)
    with pytest.raises(RuntimeError, match="a newer epoch"):
        next(old)
    assert same(list(new), expected)
    assert same(list(left.epoch(5, start_step=2)), expected[2:])


def test_a_rank_resumes_in_an_epoch():
    whole = list(stream(**EVERYTHING, rank=1, ranks=2).epoch(2))
    assert same(whole[3:], list(stream(**EVERYTHING, rank=1, ranks=2, workers=1).epoch(2, start_step=3)))


def test_parts_of_a_batch_are_ranks_of_ranks():
    parts = [list(stream(rank=rank, ranks=2).epoch(0)) for rank in range(2)]
    smaller = [list(stream(rank=rank, ranks=4).epoch(0)) for rank in range(4)]
    for rank, part in enumerate(parts):
        for step, batch in enumerate(part):
            assert same(list(batch.parts(2)), [smaller[2 * rank + number][step] for number in range(2)])
            assert same(list(batch.parts(1)), [batch])


@given(parts=st.integers(1, 6), block=st.integers(1, 5))
def test_parts_of_a_batch_hold_each_place_once_and_its_mirror_image(parts, block):
    size = 2 * parts * block
    found = [mirrored_part(size, part, parts) for part in range(parts)]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(size))
    for part in found:
        assert len(part) == 2 * block
        np.testing.assert_array_equal(size - 1 - part[::-1], part)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(InputError, match="a batch of 20 images cannot be divided into 4 parts of even size; set batch_size to 16 or 24"):
        stream(batch_size=20, rank=1, ranks=4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_batches():
    for there, here in zip(stream(**EVERYTHING, device="cuda").epoch(0), stream(**EVERYTHING).epoch(0), strict=True):
        assert there.images.is_cuda
        torch.testing.assert_close(there.images.cpu(), here.images, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(there.targets.cpu(), here.targets)


def test_resuming_in_an_epoch_changes_nothing():
    whole = stream(**EVERYTHING)
    assert same(list(whole.epoch(2))[3:], list(stream(**EVERYTHING).epoch(2, start_step=3)))
    assert list(whole.epoch(2, start_step=whole.steps_per_epoch)) == []


@pytest.mark.parametrize("names", [("digits-r", "student", 0), ("digits", "distill", 0), ("digits", "student", 1)])
def test_the_stream_depends_on_each_of_its_names(names):
    first, second = next(stream().epoch(0)), next(stream(names=names).epoch(0))
    assert not torch.equal(first.ids, second.ids)


def test_an_epoch_holds_every_image_at_most_once():
    for epoch in range(2):
        ids = torch.cat([batch.ids for batch in stream(**PLAIN).epoch(epoch)]).tolist()
        assert len(ids) == len(set(ids)) == 64
    assert stream().steps_per_epoch == 4


def test_only_the_given_indices_are_used():
    chosen = range(20, 56)
    ids = torch.cat([batch.ids for batch in stream(chosen, **PLAIN).epoch(0)]).tolist()
    assert set(ids) <= set(chosen)
    assert len(ids) == 32


def test_epochs_have_different_orders():
    orders = [torch.cat([batch.ids for batch in stream(**PLAIN).epoch(epoch)]).tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_alone(workers):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    list(stream(**EVERYTHING, workers=workers).epoch(0))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_global_seeds_change_nothing():
    torch.manual_seed(1)
    first = list(stream(**EVERYTHING).epoch(0))
    torch.manual_seed(2)
    random.seed(2)
    assert same(first, list(stream(**EVERYTHING).epoch(0)))


def test_the_packed_images_are_not_changed():
    before = SPLIT.images.copy()
    list(stream(**EVERYTHING).epoch(0))
    np.testing.assert_array_equal(SPLIT.images, before)


def test_images_on_the_disk_are_asked_for_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "images.npy"
    np.save(path, SPLIT.images)
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, offset, length, advice: asked.append(path.read_bytes()[offset : offset + length]))
    split = Split(np.load(path, mmap_mode="r"), SPLIT.labels)
    recipe = Recipe(epochs=1, batch_size=16, lr=1e-3)
    batches = list(TrainStream(split, range(70), 5, recipe, ("digits", "student", 0)).epoch(0))
    assert same(batches, list(stream().epoch(0)))
    assert asked == [SPLIT.images[index].tobytes() for batch in batches for index in batch.ids]


def test_a_set_smaller_than_a_batch_is_refused():
    with pytest.raises(InputError, match="digits student 0: 15 training images are fewer than one batch of 16; lower batch_size"):
        stream(range(15))
