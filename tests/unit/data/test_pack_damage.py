"""Damaged packs: no wrong byte passes, and each is one line that names the file and the fix."""

import io
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2mkd.data.manifest import manifest_digest
from m2mkd.data.pack import open_pack
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.stream import eval_batches
from m2mkd.errors import InputError
from tests.special_files import not_a_file
from tests.unit.data.small_pack import FILES, IMAGES, LABELS, SIZE, content, flip, png, written


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "deep" / "set@6" / "key")


def test_bits_that_flip_on_the_disk_are_found_by_reading_always(folder):
    open_pack(folder)
    flip(folder / "val.labels.npy")
    with pytest.raises(InputError, match=r"val\.labels\.npy is damaged"):
        open_pack(folder, verify="always")


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} cannot be read.*remove {folder} and run the workflow again"):
        open_pack(folder, verify="never")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    with pytest.raises(InputError, match=f"{name} .*remove {folder} and run the workflow again"):
        open_pack(folder, verify="never")


@given(name=st.sampled_from(FILES[:-1]), position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_wrong_byte_is_found(tmp_path_factory, name, position, flip):
    folder = tmp_path_factory.mktemp("pack") / "key"
    write_pack(folder, "set", SIZE, content())
    data = bytearray((folder / name).read_bytes())
    data[int(position * len(data))] ^= flip
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name} is damaged"):
        open_pack(folder)


@pytest.mark.parametrize(
    ("old", "new"), [("bee", "bed"), ('"image_size": 6', '"image_size": 7'), ("synthetic", "Synthetic"), ('"digest"', '"diges"')]
)
def test_a_changed_manifest_is_found(folder, old, new):
    path = folder / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=r"manifest\.json is"):
        open_pack(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "null", "\udcff"])
def test_what_is_no_manifest_is_refused_in_one_line(folder, text):
    (folder / "manifest.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match="is not a manifest") as caught:
        open_pack(folder)
    assert "\n" not in str(caught.value)


def test_another_format_version_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(InputError, match="has format 0"):
        open_pack(folder)


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    source = SplitSource(lambda start: [PackedImage(b"no image", bytes(32))], LABELS[:1], {}, "encoded", final=False)
    write_pack(tmp_path / "key", "set", SIZE, Content(("ant", "bee", "cat"), {"train": source}, {}))
    split = open_pack(tmp_path / "key").split("train")
    with pytest.raises(
        InputError, match=r"train\.00000\.shard is damaged: its image at byte 0 is not a complete image .*; remove .*key and run"
    ):
        split.take([0])
    with pytest.raises(InputError, match=r"^/\S*train\.00000\.shard is damaged: its image at byte 0 is not a complete image"):
        list(eval_batches(split, SIZE, 1, workers=1))  # in the words of the process that read it, without a trace


def edited(folder, **changes):
    """The manifest of a set with fields changed, and a digest that is that of what it says now."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    manifest.pop("digest")
    path.write_text(json.dumps(manifest | {"digest": manifest_digest(manifest)}))


def deep(levels):
    return '{"a":' * levels + "1" + "}" * levels


ODD = {
    "no files": ({"files": None}, "files is missing or wrong"),
    "a file elsewhere": ({"files": {"../../passwd": {"bytes": 1, "sha256": "0" * 64}}}, "files.* is missing or wrong"),
    "a size that is text": ({"image_size": "6"}, "image_size is missing or wrong"),
    "a size beyond all limits": ({"image_size": 10**9}, "image_size is missing or wrong"),
    "classes that are a number": ({"classes": 7}, "classes is missing or wrong"),
    "a split of another form": ({"splits": {"train": []}}, "splits.train is missing or wrong"),
    "a split that leads elsewhere": ({"splits": {"../train": {}}}, "splits.* is missing or wrong"),
    "an unknown field": ({"extra": 1}, "extra is missing or wrong"),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_manifest_of_another_form_is_refused_in_one_line(folder, odd):
    changes, message = ODD[odd]
    edited(folder, **changes)
    with pytest.raises(InputError, match=rf"manifest\.json is not a manifest: {message}; remove .*key and run"):
        open_pack(folder)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["manifest.json", "val.labels.npy"])
def test_what_is_no_file_is_not_waited_for(folder, tmp_path, kind, name):
    (folder / name).unlink()
    not_a_file(tmp_path, kind).rename(folder / name)
    with pytest.raises(InputError, match=rf"{re.escape(name)}.*is a {kind}"):
        open_pack(folder)


def test_a_manifest_of_endless_depth_is_none(folder):
    (folder / "manifest.json").write_text(deep(100_000))
    with pytest.raises(InputError, match="is not a manifest"):
        open_pack(folder)


def header(shape, kind="<i8"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def array(values, kind=np.int64):
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, kind))
    return buffer.getvalue()


LABELS_ARE_OTHERS = r"val\.labels\.npy is damaged: its labels do not match the manifest"
EDITED = {
    "a label of no class": ("val.labels.npy", array([0, 0, 7]), LABELS_ARE_OTHERS),
    "a negative label": ("val.labels.npy", array([0, 0, -1]), LABELS_ARE_OTHERS),
    "another label": ("val.labels.npy", array([0, 1, 2]), LABELS_ARE_OTHERS),
    "fewer labels": ("val.labels.npy", array([0, 0]), r"val\.labels\.npy is damaged: it does not hold an array \(3,\)"),
    "labels that are no numbers": ("val.labels.npy", array(["a", "b", "c"], str), "does not hold an array"),
    "labels that are floating": ("val.labels.npy", array([0, 0, 2], float), "does not hold an array"),
    "objects": ("val.labels.npy", header((3,), "|O") + pickle.dumps([1, 2, 3]), r"val\.labels\.npy is damaged \(Object arrays cannot"),
    "more labels than memory": ("val.labels.npy", header((1 << 55,)), "is damaged"),
    "a header of no array": ("val.labels.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': open()}", "is damaged"),
    "an archive": ("val.labels.npy", b"PK\x03\x04" + bytes(100), "is damaged"),
    "nothing": ("val.labels.npy", b"", "is damaged"),
    "pixels of another shape": (
        "val.images.npy",
        header((3, 5, 5, 3), "|u1") + bytes(225),
        r"val\.images\.npy is damaged: it does not hold",
    ),
    "fewer pixels than claimed": ("val.images.npy", header((3, 6, 6, 3), "|u1") + bytes(9), r"val\.images\.npy is damaged"),
    "short digests": (
        "val.sha256.npy",
        header((3, 31), "|u1") + bytes(93),
        r"val\.sha256\.npy is damaged: it does not hold an array \(3, 32\)",
    ),
    "a kind too few": ("val.kind.npy", array(["a", "b"], str), r"val\.kind\.npy is damaged"),
}


@pytest.mark.parametrize("case", EDITED)
def test_an_edited_array_is_one_line_where_digests_are_not_compared(folder, case):
    """As where a set was found right before, and its size and times were put back."""
    name, content, message = EDITED[case]
    (folder / name).write_bytes(content)
    files = {file: {"bytes": (folder / file).stat().st_size, "sha256": "0" * 64} for file in FILES[:-1]}
    edited(folder, files=files)
    pack = open_pack(folder, verify="never")
    with pytest.raises(InputError, match=message) as refused:
        pack.split("val")
    assert "; remove " in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "spans",
    [
        [[0, 0, 1 << 40]],
        [[0, 1 << 62, 1 << 62]],
        [[9, 0, 5]],
        [[-1, 0, 5]],
        [[0, -5, 5]],
        [[0, 0, 0]],
        [[0, 0, -9]],
        [[0, 1000, 9]],
        [0, 0, 5],
    ],
)
def test_an_edited_index_of_encoded_images_is_one_line(tmp_path, spans):
    source = SplitSource(lambda start: [PackedImage(png(IMAGES[0]), bytes(32))], LABELS[:1], {}, "encoded", final=False)
    write_pack(tmp_path / "key", "set", SIZE, Content(("ant", "bee", "cat"), {"train": source}, {}))
    np.save(tmp_path / "key/train.spans.npy", np.array(spans, np.int64))
    manifest = json.loads((tmp_path / "key/manifest.json").read_text())
    size = (tmp_path / "key/train.spans.npy").stat().st_size
    edited(tmp_path / "key", files=manifest["files"] | {"train.spans.npy": {"bytes": size, "sha256": "0" * 64}})
    with pytest.raises(InputError, match=r"train\.spans\.npy is damaged"):
        open_pack(tmp_path / "key", verify="never").split("train")


@pytest.mark.parametrize("position", range(0, 152, 3))
def test_every_flipped_byte_of_the_labels_is_one_line(folder, position):
    path = folder / "val.labels.npy"
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)
    try:
        open_pack(folder, verify="never").split("val")
    except InputError as refused:
        said = str(refused)
    else:
        said = "is damaged"  # what fills the header up to a round size may be anything
        assert 60 < position < 128
    assert "is damaged" in said
