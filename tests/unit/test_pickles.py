"""Pickles of strangers: read as plain values, whatever they name, and nothing of it called."""

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2mkd.pickles import MOST_OPCODES, Built, ForeignNameError, Named, PickleError, walk
from tests.bounded import bounded

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"]))
keys = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**60), 2**60)
values = st.recursive(
    scalars | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner), max_leaves=20
)


def read(content: bytes, **options):
    return walk(io.BytesIO(content), options.pop("allowed", lambda name: True), **options)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(values, st.integers(3, 5))
def test_plain_values_are_read_as_they_are(value, protocol):
    assert read(pickle.dumps(value, protocol), allowed=lambda name: False) == value


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_made_but_what_python_itself_is_made_of(protocol):
    value = {
        "namespace": argparse.Namespace(lr=0.5),
        "path": pathlib.PurePosixPath("/a/b"),
        "when": datetime.date(2020, 1, 2),
        "number": np.float32(3),
        "array": np.arange(3),
        "default": collections.defaultdict(list, a=[1]),
        "class": dict,
    }
    found = read(pickle.dumps(value, protocol))
    assert all(isinstance(found[name], Built) for name in value if name != "class")
    assert isinstance(found["class"], Named)
    assert found["namespace"].state == {"lr": 0.5}


def test_an_array_can_be_read_from_what_its_pickle_says():
    """As of the table of CIFAR: rows of bytes."""
    built = read(pickle.dumps({"data": np.arange(6, dtype=np.uint8).reshape(2, 3)}, 4))["data"]
    _, shape, dtype, _, content = built.state
    assert (shape, dtype.name, dtype.arguments[0], content) == ((2, 3), "numpy.dtype", "u1", bytes(range(6)))


class Command:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_what_is_not_allowed_is_named_and_not_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        with pytest.raises(ForeignNameError, match=r"posix\.mkdir"):
            read(pickle.dumps([1, Command()], protocol), allowed=lambda name: name != "posix.mkdir")
        assert isinstance(read(pickle.dumps(Command(), protocol)), Built)
    assert not pathlib.Path("executed").exists()


def test_what_stands_for_a_call_gets_plain_arguments():
    assert read(pickle.dumps(datetime.timedelta(3), 4), calls={"datetime.timedelta": lambda *parts: parts}) == (3, 0, 0)
    # With other arguments than it takes, the file is what is wrong.
    with pytest.raises(PickleError, match="damaged"):
        read(pickle.dumps(datetime.timedelta(3), 4), calls={"datetime.timedelta": lambda days: days})


@pytest.mark.parametrize("protocol", range(6))
def test_a_set_is_what_would_make_it(protocol):
    found = read(pickle.dumps([{1, 2}, frozenset([3])], protocol))
    assert all(isinstance(one, Built) and one.name.endswith("set") for one in found)


def test_the_text_of_python_2_is_text_or_bytes():
    for old, text in ((b"S'a'\n.", "a"), (b"T\x01\x00\x00\x00\xe9.", "\xe9"), (b"U\x01\xe9.", "\xe9")):
        assert read(old) == text
        assert read(old, encoding="bytes") == text.encode("latin-1")


@pytest.mark.parametrize("protocol", range(6))
def test_an_ordered_mapping_is_a_mapping(protocol):
    ordered = collections.OrderedDict(b=1, a=collections.OrderedDict())
    ordered._metadata = collections.OrderedDict(version=1)
    assert read(pickle.dumps(ordered, protocol)) == {"b": 1, "a": {}}
    assert read(b"ccollections\nOrderedDict\n(]]K\x01aK\x02aatR.".replace(b"]K\x01aK\x02aa", b"(lK\x01aK\x02aa")) == {1: 2}
    for wrong in (b"ccollections\nOrderedDict\n(K\x01tR.", b"ccollections\nOrderedDict\n(]K\x01atR."):
        with pytest.raises(PickleError, match="damaged"):
            read(wrong)


def test_persistent_ids_are_what_the_caller_says():
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", len(obj)) if isinstance(obj, bytearray) else None

    written = io.BytesIO()
    Pickler(written, 4).dump([bytearray(7)])
    assert read(written.getvalue(), persistent=lambda identity: identity[1]) == [7]
    with pytest.raises(PickleError, match="persistent ids"):
        read(written.getvalue())


def memo_bomb() -> bytes:
    """2 ** 60 leaves when it is walked through, hashed or printed."""
    level = b"\x86"
    return b"N" + b"q\x00h\x00" + level + b"".join(b"q\x00h\x00" + level for _ in range(60)) + b"."


HOSTILE = {
    "calls a number": b"K\x01)R.",
    "calls with a list": b"cbuiltins\nset\n]R.",
    "sets the state of a list": b"]}b.",
    "sets the state of a class": b"cbuiltins\nset\n}b.",
    "appends to a number": b"K\x01K\x01a.",
    "sets an item of a list": b"]K\x01K\x02s.",
    "odd items": b"}(K\x01u.",
    "an extension": b"\x82\x01.",
    "a buffer": b"\x97.",
    "an old instance": b"(ibuiltins\nset\n.",
    "an absent memo": b"h\x00.",
    "an empty stack": b"0.",
    "an empty mark": b"t.",
    "two values": b"NN.",
    "an open mark": b"(N.",
    "no end": b"N",
    "nothing": b"",
    "a name that is no text": b"K\x01K\x02\x93.",
    "a long of more bytes than there are": b"\x8b\xff\xff\xff\x7f1.",
    "text of more bytes than there are": b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "bytes of more bytes than there are": b"\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a number of too many digits": b"I" + b"9" * 5000 + b"\n.",
    "no opcodes": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_damaged_pickles_are_refused(content):
    with bounded(2**28, 2), pytest.raises(PickleError):
        read(content)


def test_a_memo_at_a_far_index_takes_no_memory():
    """Python's own unpickler makes a table of that size."""
    with bounded(2**28, 2):
        assert read(b"Nr" + struct.pack("<I", 2**31) + b".") is None


def test_keys_are_compared_in_no_time():
    collide = b"".join(b"\x8a\x10" + (index * (2**61 - 1) << 8).to_bytes(16, "little") + b"N" for index in range(1, 20000))
    nested = b"}" + memo_bomb()[:-1] + b"Ns."
    with bounded(2**28, 5):
        assert len(read(b"}(" + collide + b"u.")) == 19999
        assert len(read(nested)) == 1
        assert read(memo_bomb())


def test_a_pickle_has_an_end():
    with bounded(2**30, 20), pytest.raises(PickleError, match="more than 2,000,000 opcodes"):
        read(b"(" + b"]" * MOST_OPCODES + b"l.")
