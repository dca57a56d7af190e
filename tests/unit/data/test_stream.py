"""The training stream: what it depends on, and what it does not."""

import io
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2mkd.config.recipe import Augmentation, Recipe
from m2mkd.data.pack import ENCODED, PIXELS, Split, open_pack
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.stream import Batch, TrainStream, eval_batches, mirrored_part
from m2mkd.data.transforms import normalised
from m2mkd.errors import InputError

GENERATOR = np.random.default_rng(0)
SPLIT = Split(GENERATOR.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8), GENERATOR.integers(0, 5, 70))
EVERYTHING = {"repeats": 3}
PLAIN = {"crop_scale": (1, 1), "crop_ratio": (1, 1), "flip": 0, "rand_augment": None, "erase": 0, "mixup": 0, "cutmix": 0}


def stream(
    indices=range(70), names=("digits", "student", 0), batch_size=16, workers=0, rank=0, ranks=1, device="cpu", split=SPLIT, **augmentation
):
    recipe = Recipe(epochs=1, batch_size=batch_size, lr=1e-3, augmentation=Augmentation(**augmentation))
    return TrainStream(split, list(indices), 5, recipe, names, workers, device, rank, ranks)


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


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


def all_gather(parts):
    """The batch that its parts are of."""
    size = sum(len(part.ids) for part in parts)
    indices = torch.from_numpy(np.concatenate([mirrored_part(size, number, len(parts)) for number in range(len(parts))]))
    return Batch(*(torch.cat(fields)[indices.argsort()] for fields in zip(*parts, strict=True)))


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


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


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
    with pytest.raises(
        InputError, match="a batch of 20 images cannot be divided into 4 parts of an even number; set batch_size to 16 or 24"
    ):
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


def views(augmentation, epochs=4):
    """The unmixed images of some epochs by (image, epoch, repeat)."""
    found, single = {}, stream(**augmentation)
    for epoch in range(epochs):
        for draw, batch in zip(single.draws(epoch), single.epoch(epoch), strict=True):
            assert draw.samples.tolist() == batch.ids.tolist()
            for sample, repeat, image in zip(draw.samples, draw.repeats, batch.images, strict=True):
                assert (sample, epoch, repeat) not in found
                found[sample, epoch, repeat] = image
    return found


def test_repeated_augmentation_gives_several_views_of_fewer_images():
    ids = torch.cat([batch.ids for batch in stream(**EVERYTHING).epoch(0)])
    assert len(ids) == 64
    assert len(set(ids.tolist())) == 22  # 64 / 3, rounded up
    assert np.all(ids[:63].reshape(-1, 3).numpy() == ids[:63:3, None].numpy())


@pytest.mark.parametrize("kind", [{"crop_scale": (0.3, 1)}, {"erase": 1}])
def test_augmentation_differs_between_repeats_and_epochs(kind):
    found = views(PLAIN | kind | {"repeats": 2})
    repeats = [(key, (key[0], key[1], 1)) for key in found if key[2] == 0 and (key[0], key[1], 1) in found]
    epochs = [(key, (key[0], key[1] + 1, key[2])) for key in found if (key[0], key[1] + 1, key[2]) in found]
    for pairs in (repeats, epochs):
        assert len(pairs) > 20
        assert np.mean([torch.equal(found[a], found[b]) for a, b in pairs]) < 0.1


def test_a_view_does_not_depend_on_the_batch_size():
    small, large = stream(batch_size=8, mixup=0, cutmix=0), stream(batch_size=32, mixup=0, cutmix=0)
    images = [torch.cat([batch.images for batch in each.epoch(1)])[:64] for each in (small, large)]
    assert torch.equal(*images)


@pytest.mark.parametrize("mixing", [{}, {"cutmix": 0}, {"mixup": 0}, {"label_smoothing": 0}, {"mixup": 0, "cutmix": 0}])
def test_targets_sum_to_one(mixing):
    for batch in stream(**mixing).epoch(0):
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(16))
        assert batch.targets.min() >= 0


def test_without_mixing_targets_are_smoothed_labels():
    for batch in stream(mixup=0, cutmix=0, label_smoothing=0.1).epoch(0):
        expected = 0.02 + 0.9 * torch.nn.functional.one_hot(batch.labels, 5)
        torch.testing.assert_close(batch.targets, expected)


def test_mixup_blends_a_batch_with_its_reverse():
    mixed, plain = (list(stream(**(PLAIN | {"mixup": alpha, "label_smoothing": 0})).epoch(0)) for alpha in (0.8, 0))
    lams = []
    for blend, clean in zip(mixed, plain, strict=True):
        i = next(i for i in range(16) if clean.labels[i] != clean.labels[15 - i])
        lam = blend.targets[i, clean.labels[i]]
        torch.testing.assert_close(blend.images, lam * clean.images + (1 - lam) * clean.images.flip(0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(blend.targets, lam * clean.targets + (1 - lam) * clean.targets.flip(0))
        lams.append(lam.item())
    assert len(set(lams)) == len(lams)  # one for each batch


def test_cutmix_pastes_a_box_of_the_reverse():
    mixed, plain = (list(stream(**(PLAIN | {"cutmix": alpha, "label_smoothing": 0})).epoch(0)) for alpha in (1.0, 0))
    for blend, clean in zip(mixed, plain, strict=True):
        pasted = (blend.images != clean.images).any(0).any(0)
        assert torch.equal(blend.images, torch.where(pasted, clean.images.flip(0), clean.images))
        i = next(i for i in range(16) if clean.labels[i] != clean.labels[15 - i])
        assert blend.targets[i, clean.labels[i]].item() == pytest.approx(1 - pasted.float().mean().item(), abs=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 16), (1.0, 64)])
def test_the_share_of_cutmix(share, expected):
    pasted = 0
    mixing = stream(**(PLAIN | {"mixup": 0.8, "cutmix": 1.0, "cutmix_share": share}))
    for epoch in range(16):
        for blend in mixing.epoch(epoch):
            clean = normalised(SPLIT.images[blend.ids.numpy()])
            pasted += torch.equal(blend.images, torch.where(blend.images == clean, clean, clean.flip(0)))
    assert abs(pasted - expected) <= (10 if 0 < share < 1 else 0)


def test_mixing_draws_what_the_released_code_draws(fixtures_dir):
    """Which of the two, and lambda before the box is cut, from numpy's seed 123 (vmoe.md 4.2)."""
    from timm.data.mixup import Mixup

    from m2mkd.seeds import forked_rng

    recorded = np.load(fixtures_dir / "vmoe" / "vmoe_fixtures.npz")["mixup.seed123.lam_cutmix"]
    with forked_rng():
        np.random.seed(123)
        drawn = [Mixup(0.8, 1.0, switch_prob=0.5)._params_per_batch() for _ in recorded]
    np.testing.assert_allclose(drawn, recorded, atol=1e-12)


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
    with pytest.raises(InputError, match="digits: 15 training images are fewer than one batch of 16; lower batch_size"):
        stream(range(15))


def test_evaluation_sees_every_image_in_order():
    batches = list(eval_batches(SPLIT, 16, 32))
    assert [len(batch.labels) for batch in batches] == [32, 32, 6]
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(70))
    assert torch.cat([batch.labels for batch in batches]).tolist() == SPLIT.labels.tolist()
    assert torch.equal(torch.cat([batch.images for batch in batches]), normalised(SPLIT.images))


@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 32), (2, 32), (3, 7), (4, 32), (5, 70)])
def test_ranks_divide_an_evaluation(ranks, batch_size):
    whole = {int(batch.ids[0]): batch for batch in eval_batches(SPLIT, 16, batch_size)}
    parts = [batch for rank in range(ranks) for batch in eval_batches(SPLIT, 16, batch_size, rank, ranks)]
    assert sorted(torch.cat([batch.ids for batch in parts]).tolist()) == list(range(70))
    # Batch by batch what one rank has, so that nothing depends on what shares a batch.
    assert same(parts, [whole[int(batch.ids[0])] for batch in parts])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_resize_what_is_evaluated(workers):
    raw = Split(SPLIT.images, SPLIT.labels, final=False)
    before = torch.get_rng_state()
    assert same(list(eval_batches(raw, 24, 32)), list(eval_batches(raw, 24, 32, workers=workers)))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_at_another_size_resizes_and_crops():
    ramp = Split(
        np.linspace(0, 255, 16).astype(np.uint8)[None, None, :, None].repeat(16, 1).repeat(3, 3), np.zeros(1, np.int64), final=False
    )
    (batch,) = eval_batches(ramp, 64, 8)
    assert batch.images.shape == (1, 3, 64, 64)
    # 73 columns, of which 4 or 5 at each side are cut off: neither the darkest nor the lightest remain.
    assert batch.images.min() > normalised(ramp.images).min()
    assert batch.images.max() < normalised(ramp.images).max()
