"""The stream of a detector: what it depends on, and what it does not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from m2mkd.config.detection_input import DetectionInput, ScaleJitter, ShortestEdge
from m2mkd.data.detection_pack import DetectionSplit, detection_split
from m2mkd.data.detection_stream import DetectionBatch, DetectionStream, Target, detection_eval_batches, rank_block
from m2mkd.data.detection_transforms import augmented, shortest_edge_size
from m2mkd.data.pack import open_pack
from m2mkd.data.packing import Content, SplitSource, write_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.samples import resized_image
from m2mkd.data.segmentation import bitmap, drawn
from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed
from tests.coco import annotation, files, healthy, photograph, record, registered, runs, write_archive

NAMES = ("data", "set", "train_detector", 0)
JITTER = DetectionInput(augmentation=ScaleJitter(target=48, scale=(0.5, 2.0)), test_size=48, test_longest=48)
EDGE = DetectionInput(augmentation=ShortestEdge(sizes=(24, 30, 36), longest=44), test_size=24, test_longest=30)
MORE = range(100, 121)
BATCH = 6


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> DetectionSplit:
    """Twenty-four images, three of which have nothing to train on; some have bitmaps, one has a crowd too."""
    folder = tmp_path_factory.mktemp("stream")
    sets = healthy()
    sizes = {number: (20 + number % 7, 40 + number % 5) for number in MORE}
    for number, (height, width) in sizes.items():
        sets["train"]["images"].append(record(number, height=height, width=width))
        sets["train"]["annotations"].append(annotation(10 * number, number, (1, 13, 90)[number % 3]))
        if number % 4 == 0:
            mask = runs(5 * height, 3 * height, width, height)
            sets["train"]["annotations"].append(annotation(10 * number + 1, number, 1, segmentation=mask, bbox=[5, 0, 3, height]))
        if number == 103:
            crowd = annotation(10 * number + 2, number, 1, iscrowd=1, segmentation=runs(0, height, width, height))
            sets["train"]["annotations"].append(crowd)
    content = files(sets) | {f"train2017/{number:012}.jpg": photograph(number, width, height) for number, (height, width) in sizes.items()}
    (folder / "data/raw").mkdir(parents=True)
    write_archive(folder / "data/raw/set.zip", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare("set", registered(), 64, folder / "packed/key", processes=1)
    return detection_split(open_pack(folder / "packed/key"), "train")


def stream(
    split: DetectionSplit, config: DetectionInput = JITTER, names=NAMES, workers=0, rank=0, ranks=1, indices=None
) -> DetectionStream:
    return DetectionStream(split, split.trainable if indices is None else indices, BATCH, config, names, workers, "cpu", rank, ranks)


def plain(value):
    """A batch as something that can be compared."""
    if isinstance(value, Target):
        return plain([value.boxes, value.classes, value.masks])
    if isinstance(value, torch.Tensor | np.ndarray):
        return tuple(value.shape), str(value.dtype).removeprefix("torch."), np.asarray(value).tobytes()
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def test_a_batch_is_what_the_transforms_make(split: DetectionSplit):
    assert len(split) == 24 and len(split.trainable) == 22
    for config in (JITTER, EDGE):
        batch = next(stream(split, config).epoch(3))
        assert len(batch.images) == len(batch.targets) == len(batch.ids) == BATCH
        for index, image, target in zip(batch.ids.tolist(), batch.images, batch.targets, strict=True):
            generator = np.random.default_rng(derive_seed(*NAMES, "augment", 3, index))
            expected = augmented(split.sample(index), config.augmentation, generator)
            assert np.array_equal(image, expected.image.transpose(2, 0, 1))
            assert image.dtype == torch.uint8
            assert target.boxes.dtype == torch.float32 and target.classes.dtype == torch.int64
            assert target.boxes.shape == (len(expected.classes), 4)
            np.testing.assert_array_equal(target.boxes, expected.boxes.astype(np.float32))
            np.testing.assert_array_equal(target.classes, expected.classes)
            assert len(target) == len(target.masks) == len(expected.segmentations)
            mixed = any(isinstance(mask, np.ndarray) for mask in expected.segmentations)
            assert isinstance(target.masks, torch.Tensor) == mixed
            for ours, theirs in zip(target.masks, expected.segmentations, strict=True):
                mask = bitmap(theirs, *image.shape[1:])
                np.testing.assert_array_equal(ours if mixed else drawn(ours, *image.shape[1:]), mask)


def test_an_epoch_has_each_image_once_and_each_epoch_its_own_order(split: DetectionSplit):
    made = stream(split)
    assert made.steps_per_epoch == 3
    seen = [torch.cat([batch.ids for batch in made.epoch(epoch)]).tolist() for epoch in range(3)]
    for ids in seen:
        assert len(set(ids)) == len(ids) == 18 and set(ids) <= set(split.trainable.tolist())
    assert len({tuple(ids) for ids in seen}) == 3
    sizes = {image.shape for epoch in range(3) for batch in made.epoch(epoch) for image in batch.images}
    assert len(sizes) > 10, "the jitter jitters"


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(split: DetectionSplit, workers: int):
    loaded = stream(split, workers=workers)
    assert plain(list(loaded.epoch(2))) == plain(list(stream(split).epoch(2)))
    assert plain(list(loaded.epoch(1, start_step=1))) == plain(list(stream(split).epoch(1))[1:])
    loaded.close()
    with pytest.raises(RuntimeError, match="this stream is closed"):
        loaded.epoch(0)


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (3, 0), (2, 1)])
def test_ranks_change_nothing(split: DetectionSplit, ranks: int, workers: int):
    whole = list(stream(split).epoch(4))
    parts = [list(stream(split, workers=workers, rank=rank, ranks=ranks).epoch(4)) for rank in range(ranks)]
    for step, batch in enumerate(whole):
        together = [part[step] for part in parts]
        assert all(len(each.images) == BATCH // ranks for each in together)
        assert plain(batch) == plain(
            DetectionBatch(
                [image for each in together for image in each.images],
                [target for each in together for target in each.targets],
                torch.cat([each.ids for each in together]),
            )
        )


def test_parts_are_ranks_of_ranks(split: DetectionSplit):
    smaller = [list(stream(split, rank=rank, ranks=6).epoch(0)) for rank in range(6)]
    for rank in range(2):
        for step, batch in enumerate(stream(split, rank=rank, ranks=2).epoch(0)):
            assert plain(list(batch.parts(3))) == plain([smaller[3 * rank + number][step] for number in range(3)])
            assert plain(list(batch.parts(1))) == plain([batch])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_was_left_gives_way_to_the_next(split: DetectionSplit, workers: int):
    left = stream(split, workers=workers)
    old = left.epoch(4)
    next(old)
    new = left.epoch(5)
    with pytest.raises(RuntimeError, match="a newer epoch"):
        next(old)
    assert plain(list(new)) == plain(list(stream(split).epoch(5)))


def test_it_depends_on_its_names_alone(split: DetectionSplit):
    first = plain(list(stream(split).epoch(0)))
    np.random.seed(1)
    torch.manual_seed(1)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert plain(list(stream(split).epoch(0))) == first
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]
    assert plain(list(stream(split, names=(*NAMES[:-1], 1)).epoch(0))) != first


def test_an_image_of_which_nothing_is_left_has_no_target(split: DetectionSplit):
    """The jitter cuts it off; as many boxes as outlines stay for the others."""
    config = DetectionInput(augmentation=ScaleJitter(target=8, scale=(4.0, 4.0), flip=0))
    batches = [batch for epoch in range(3) for batch in stream(split, config).epoch(epoch)]
    counts = [len(target.classes) for batch in batches for target in batch.targets]
    assert 0 in counts and max(counts) > 0
    for batch in batches:
        for target in batch.targets:
            assert target.boxes.shape == (len(target.masks), 4) == (len(target), 4)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("ranks", "size"), [(1, 5), (2, 5), (3, 24)])
def test_evaluation_has_every_image_once_in_order(split: DetectionSplit, workers: int, ranks: int, size: int):
    parts = [list(detection_eval_batches(split, EDGE, size, rank, ranks, workers)) for rank in range(ranks)]
    batches = sorted((batch for part in parts for batch in part), key=lambda batch: batch.ids[0])
    assert [index for batch in batches for index in batch.ids.tolist()] == list(range(24))
    assert all(len(batch.ids) == size for batch in batches[:-1])
    for batch in batches:
        for index, image, shape in zip(batch.ids.tolist(), batch.images, batch.sizes, strict=True):
            original = split.image(index)
            assert shape == original.shape[:2] == (split.attributes["height"][index], split.attributes["width"][index])
            expected = resized_image(original, *shortest_edge_size(*shape, 24, 30))
            assert np.array_equal(image, expected.transpose(2, 0, 1))
            assert max(image.shape[1:]) <= 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_batches(split: DetectionSplit):
    there = DetectionStream(split, split.trainable, BATCH, JITTER, NAMES, 1, "cuda")
    for ours, theirs in zip(there.epoch(0), stream(split).epoch(0), strict=True):
        assert all(image.is_cuda for image in ours.images) and all(target.boxes.is_cuda for target in ours.targets)
        images, targets = (
            [image.cpu() for image in ours.images],
            [
                Target(
                    target.boxes.cpu(), target.classes.cpu(), target.masks.cpu() if isinstance(target.masks, torch.Tensor) else target.masks
                )
                for target in ours.targets
            ],
        )
        assert plain(DetectionBatch(images, targets, ours.ids.cpu())) == plain(theirs)


def test_what_cannot_be_batched_is_refused(split: DetectionSplit):
    with pytest.raises(InputError, match="5 training images are fewer than one batch of 6; lower batch_size"):
        stream(split, indices=range(5))
    with pytest.raises(InputError, match="a batch of 6 images cannot be divided into 4 equal parts; set batch_size to 4 or 8"):
        stream(split, ranks=4)
    assert [rank_block(12, part, 3) for part in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]


def test_a_set_for_classification_is_refused(tmp_path: Path):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    write_pack(tmp_path / "key", "set", 8, Content(("a", "b"), {"train": SplitSource(lambda start: images[start:], [0, 1])}, {}))
    with pytest.raises(InputError, match="have labels instead of boxes; name a set for detection"):
        detection_split(open_pack(tmp_path / "key"), "train")
