"""Class masks: measuring on some of a model's classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.data.masks import class_mask
from m2mkd.errors import InputError

NAMES = st.lists(st.sampled_from([f"n{i:02}" for i in range(20)]), min_size=2, unique=True)


def test_the_mask_is_in_the_models_order():
    mask = class_mask(["d", "a", "c", "b"], ["b", "x", "d"])
    np.testing.assert_array_equal(mask.columns, [0, 3])
    np.testing.assert_array_equal(mask.labels, [1, -1, 0])


@given(model=NAMES, other=NAMES, data=st.data())
def test_the_mask_preserves_the_truth(model, other, data):
    common = set(model) & set(other)
    if len(common) < 2:
        with pytest.raises(InputError, match=f"share {len(common)} of {len(model)} and {len(other)} classes"):
            class_mask(model, other)
        return
    mask = class_mask(model, other)
    assert {model[column] for column in mask.columns} == common
    assert np.all(np.diff(mask.columns) > 0)
    for label, name in enumerate(other):
        index = mask.labels[label]
        assert (index == -1) == (name not in common)
        if index >= 0:
            assert model[mask.columns[index]] == name
    labels = data.draw(st.lists(st.integers(0, len(other) - 1), max_size=30))
    kept, masked, left_out = mask.known(labels)
    assert len(kept) + left_out == len(labels)
    assert left_out == sum(other[label] not in common for label in labels)
    # A model that knows the truth is right on every image that is kept.
    logits = np.array([[name == other[labels[i]] for name in model] for i in kept]).reshape(len(kept), len(model))[:, mask.columns]
    np.testing.assert_array_equal(logits.argmax(1) if len(kept) else [], masked)


def test_identical_classes_change_nothing():
    mask = class_mask(list("abc"), list("abc"))
    np.testing.assert_array_equal(mask.columns, [0, 1, 2])
    np.testing.assert_array_equal(mask.labels, [0, 1, 2])


@pytest.mark.parametrize(("model", "other"), [(["a", "b", "a"], ["a", "b"]), (["a", "b"], ["b", "a", "b"])])
def test_a_name_that_stands_twice_is_refused(model, other):
    with pytest.raises(InputError, match="is repeated"):
        class_mask(model, other)
