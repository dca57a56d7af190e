"""Packed sets: what is written is what is read, and no damage passes."""

import hashlib
import io
import json
import os
import pickle
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2mkd.data import packing
from m2mkd.data.manifest import manifest_digest
from m2mkd.data.pack import Split, open_pack, stratified_share
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.stream import eval_batches
from m2mkd.errors import InputError
from m2mkd.files import sha256
from tests.unit.test_files import not_a_file

SIZE = 6
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 2])
KINDS = np.array(["edges", "rotated", "edges"])
FILES = (
    *("train.images.npy", "train.labels.npy", "train.sha256.npy"),
    *("val.images.npy", "val.labels.npy", "val.sha256.npy", "val.kind.npy", "manifest.json"),
)


def content(images=IMAGES):
    splits = {
        "train": SplitSource(lambda start: images[start:6], LABELS[:6]),
        "val": SplitSource(lambda start: images[6 + start :], LABELS[6:], {"kind": KINDS}),
    }
    return Content(("ant", "bee", "cat"), splits, {"file": "made here", "sha256": "0" * 64})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "deep" / "set@6" / "key"
    write_pack(folder, "set", SIZE, content(), synthetic=True)
    return folder


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


def test_files_are_read_once_and_again_when_they_have_changed(folder, monkeypatch):
    read = []
    monkeypatch.setattr("m2mkd.data.pack.sha256", lambda path: read.append(path.name) or sha256(path))
    whole = sorted(FILES[:-1])
    for _ in range(2):
        open_pack(folder)
        assert sorted(read) == whole
    open_pack(folder, verify="always")
    assert sorted(read) == sorted(2 * whole)
    labels = folder / "val.labels.npy"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1] + b"!")
    for verify in ("once", "always"):
        with pytest.raises(InputError, match=r"val\.labels\.npy is damaged: its sha256 differs"):
            open_pack(folder, verify=verify)


def test_bits_that_flip_on_the_disk_are_found_by_reading_always(folder):
    open_pack(folder)
    labels = folder / "val.labels.npy"
    state = labels.stat()
    with labels.open("rb+") as file:
        file.seek(-1, 2)
        file.write(b"!")
    os.utime(labels, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(InputError, match=r"val\.labels\.npy is damaged"):
        open_pack(folder, verify="always")


def test_where_nothing_may_be_written_a_set_is_opened_all_the_same(folder, monkeypatch):
    def refuse(path, _):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("m2mkd.data.pack.write_json", refuse)
    assert open_pack(folder).name == "set"


def test_an_attempt_from_another_source_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 2)

    def interrupted(start):
        yield from IMAGES[start:4]
        raise KeyboardInterrupt

    def source(images, sha256):
        return Content(("ant", "bee", "cat"), {"train": SplitSource(images, LABELS[:6])}, {"sha256": sha256})

    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path / "key", "set", SIZE, source(interrupted, "of the first"))
    assert (tmp_path / ".key.partial/journal.json").exists()
    others = 255 - IMAGES
    write_pack(tmp_path / "key", "set", SIZE, source(lambda start: others[start:6], "of the second"))
    np.testing.assert_array_equal(open_pack(tmp_path / "key").split("train").images, others[:6])


def test_a_split_that_is_absent_is_named(folder):
    with pytest.raises(InputError, match="no split 'test'; it has train, val"):
        open_pack(folder).split("test")


def test_a_set_that_is_not_there_says_how_it_is_made(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=rf"{folder}/manifest\.json: absent; run 'm2mkd data prepare set@6' first"):
        open_pack(folder)


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


@pytest.mark.parametrize("wrong", ["too few", "too many", "size", "dtype"])
def test_wrong_images_leave_nothing(tmp_path, wrong):
    images = {"too few": IMAGES[:5], "too many": IMAGES[:8], "size": IMAGES[:6, 1:], "dtype": IMAGES[:6].astype(int)}[wrong]
    source = Content(("ant", "bee", "cat"), {"train": SplitSource(lambda start: images[start:], LABELS[:6])}, {})
    with pytest.raises(ValueError, match="image"):
        write_pack(tmp_path / "key", "set", SIZE, source)
    assert not list(tmp_path.iterdir())


def test_a_label_without_a_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="do not fit 2 classes"):
        write_pack(tmp_path / "key", "set", SIZE, Content(("ant", "bee"), {"train": SplitSource(lambda start: IMAGES[start:], LABELS)}, {}))


def test_a_file_that_cannot_be_written_leaves_the_old_set(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_pack(folder, "set", SIZE, content(255 - IMAGES))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(open_pack(folder).split("train").images, IMAGES[:6])
    assert sorted(file.name for file in folder.parent.iterdir()) == [".key.verified", "key"]


def test_a_damaged_set_is_replaced(folder):
    (folder / "val.kind.npy").unlink()
    (folder / "left-over").touch()
    write_pack(folder, "set", SIZE, content(255 - IMAGES))
    np.testing.assert_array_equal(open_pack(folder).split("train").images, 255 - IMAGES[:6])
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert sorted(file.name for file in folder.parent.iterdir()) == [".key.verified", "key"]


@pytest.mark.parametrize("storage", ["pixels", "encoded"])
@pytest.mark.parametrize("killed_at", [1, 5, 9, 10])
def test_a_killed_attempt_goes_on_at_its_last_mark(tmp_path, monkeypatch, storage, killed_at):
    """Also in the middle of a write, after the mark, and over the edge of a shard."""
    monkeypatch.setattr(packing, "CHUNK", 2)
    monkeypatch.setattr(packing, "SHARD_BYTES", 300)
    asked = []

    def source(split, chosen, kill):
        def images(start):
            asked.append(start)
            for number, image in enumerate(chosen[start:], start=start):
                if kill and number == kill:
                    # What a kill leaves behind: bytes after the last mark, and a shard that no mark knows.
                    pattern = f"{split}.*.shard" if storage == "encoded" else f"{split}.images.npy"
                    for path in sorted((tmp_path / ".key.partial").glob(pattern))[-1:]:
                        with path.open("ab") as file:
                            file.write(b"half an image")
                    (tmp_path / f".key.partial/{split}.00007.shard").write_bytes(b"unknown")
                    raise KeyboardInterrupt
                yield PackedImage(image.tobytes() if storage == "pixels" else png(image), bytes(32))

        return SplitSource(images, LABELS[: len(chosen)], {}, storage)

    def both(kill):
        first, second = (kill, None) if kill and kill < 8 else (None, kill and kill - 8)
        return Content(("ant", "bee", "cat"), {"train": source("train", IMAGES[:8], first), "val": source("val", IMAGES[:5], second)}, {})

    write_pack(tmp_path / "undisturbed", "set", SIZE, both(None))
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path / "key", "set", SIZE, both(killed_at))
    assert not (tmp_path / "key").exists()
    write_pack(tmp_path / "key", "set", SIZE, both(None))
    assert asked == ([0, killed_at // 2 * 2, 0] if killed_at < 8 else [0, 0, 8, (killed_at - 8) // 2 * 2])
    files = sorted(path.name for path in (tmp_path / "undisturbed").iterdir())
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == files
    for name in files:
        assert (tmp_path / "key" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


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


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    source = SplitSource(lambda start: [PackedImage(b"no image", bytes(32))], LABELS[:1], {}, "encoded", final=False)
    write_pack(tmp_path / "key", "set", SIZE, Content(("ant", "bee", "cat"), {"train": source}, {}))
    split = open_pack(tmp_path / "key").split("train")
    with pytest.raises(InputError, match=r"train\.00000\.shard is damaged: its image at byte 0 is no whole image .*; remove .*key and run"):
        split.take([0])
    with pytest.raises(InputError, match=r"^/\S*train\.00000\.shard is damaged: its image at byte 0 is no whole image"):
        list(eval_batches(split, SIZE, 1, workers=1))  # in the words of the process that read it, without a trace


def test_packing_is_deterministic(folder, tmp_path):
    write_pack(tmp_path / "again", "set", SIZE, content(), synthetic=True)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


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
    with pytest.raises(InputError, match=f"{name}: is a {kind}"):
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


LABELS_ARE_OTHERS = r"val\.labels\.npy is damaged: its labels are not those of the manifest"
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
