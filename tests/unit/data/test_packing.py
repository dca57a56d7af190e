"""Packing: what is written is whole, or not there; killed, it goes on where it was."""

import resource

import numpy as np
import pytest

from m2mkd.data import packing
from m2mkd.data.pack import open_pack
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from tests.unit.data.small_pack import FILES, IMAGES, LABELS, SIZE, content, png, written


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "deep" / "set@6" / "key")


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


def test_packing_is_deterministic(folder, tmp_path):
    write_pack(tmp_path / "again", "set", SIZE, content(), synthetic=True)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
