"""Few-shot episodes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2mkd.data.fewshot import episode, episode_seed
from m2mkd.data.pack import Split
from m2mkd.errors import InputError


def split(counts, seed=0):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return Split(np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, axis=3), labels)


TRAIN, VAL = split([20] * 12), split([20] * 11 + [4], seed=1)


@given(way=st.integers(2, 12), shots=st.integers(1, 5), seed=st.integers(0, 50))
@settings(deadline=None)
def test_an_episode_has_its_ways_and_shots(way, shots, seed):
    drawn = episode(TRAIN, VAL, way, shots, seed)
    assert drawn.classes == tuple(sorted(set(drawn.classes)))
    assert len(drawn.classes) == way
    train, val = drawn.subset(TRAIN, drawn.train), drawn.subset(VAL, drawn.val)
    np.testing.assert_array_equal(np.bincount(train.labels, minlength=way), [shots] * way)
    np.testing.assert_array_equal(np.bincount(val.labels), [min(3 * shots, 4 if label == 11 else 20) for label in drawn.classes])
    assert len(set(drawn.train)) == way * shots
    np.testing.assert_array_equal(np.array(drawn.classes)[train.labels], TRAIN.labels[drawn.train])
    np.testing.assert_array_equal(val.images, VAL.images[drawn.val])


@given(seed=st.integers(0, 50), shots=st.integers(1, 5))
@settings(deadline=None)
def test_as_released_the_shots_are_among_the_validation_images(seed, shots):
    drawn = episode(TRAIN, VAL, 8, shots, seed, val_from="train")
    assert set(drawn.train) < set(drawn.val)
    assert len(drawn.val) == 8 * 3 * shots
    corrected = episode(TRAIN, VAL, 8, shots, seed)
    assert corrected.classes == drawn.classes
    np.testing.assert_array_equal(corrected.train, drawn.train)


def test_the_seed_decides_everything():
    first, again, other = (episode(TRAIN, VAL, 8, 2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train, again.train)
    np.testing.assert_array_equal(first.val, again.val)
    assert first.classes != other.classes


def test_the_first_episode_of_a_replicate_is_as_ever_and_the_others_differ():
    assert [episode_seed(replicate, 0) for replicate in range(5)] == [1, 2, 3, 4, 5]
    seeds = [episode_seed(replicate, number) for replicate in range(5) for number in range(200)]
    assert len(set(seeds)) == 1000
    assert 0 <= min(seeds) <= max(seeds) < 2**32
    assert len({episode(TRAIN, VAL, 4, 2, seed).classes for seed in seeds[:50]}) > 40


def test_the_images_are_shuffled_over_the_classes():
    labels = TRAIN.labels[episode(TRAIN, VAL, 8, 5, 1).train]
    assert np.sum(np.diff(labels) != 0) > 15


def test_more_classes_than_there_are_is_refused():
    with pytest.raises(InputError, match="way 13 is more than the 12 classes"):
        episode(TRAIN, VAL, 13, 1, 0)


def test_more_shots_than_images_is_refused():
    with pytest.raises(InputError, match="has 20 training images, fewer than 21 shots"):
        episode(TRAIN, VAL, 12, 21, 0)


def test_a_class_without_validation_images_is_refused():
    with pytest.raises(InputError, match="no validation image"):
        episode(TRAIN, split([20] * 11), 12, 1, 0)
