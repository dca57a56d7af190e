"""Damaged input: each kind is one line that names the file and the fix, exit code 2, and leaves no set behind, whole or partial."""

import hashlib
import io
import pickle
import resource
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.errors import InputError
from tests.archives import (
    HEALTHY,
    Files,
    birds,
    cifar,
    compressed,
    folders,
    image,
    lines,
    pack,
    refused,
    registered,
    renditions,
    replaced,
    tiny,
    without,
)
from tests.conftest import ROOT


def cut(content: bytes) -> bytes:
    """The first half of a JPEG, with the marker of the end behind it."""
    return content[: len(content) // 2] + b"\xff\xd9"


def deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def deep_colours() -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write, and opens as one of 8."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = np.random.default_rng(0).integers(0, 256, (64, 1 + 64 * 6), dtype=np.uint8)
    pixels[:, 0] = 0
    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels.tobytes())) + chunk(b"IEND", b"")


def vast() -> bytes:
    """A PNG whose header claims more pixels than any photograph has."""
    content = image(form="PNG")
    return content[:16] + struct.pack(">II", 60_000, 60_000) + content[24:]


class _Evil:
    def __reduce__(self):
        return (print, ("code of a stranger runs",))


ANNOTATIONS, SPLIT, NUMBERS = "val_annotations.txt", "train_test_split.txt", "image_class_labels.txt"
DAMAGE: dict[str, tuple[str, Files, str]] = {
    "zero-byte image": ("tiny_imagenet", replaced(tiny(), **{"n00000001_1.JPEG": b""}), r"n00000001_1\.JPEG is empty"),
    "truncated image": (
        "tiny_imagenet",
        replaced(tiny(), **{"n00000001_1.JPEG": image()[:900]}),
        r"n00000001_1\.JPEG is not a complete image",
    ),
    "progressive image that is cut in half": (
        "tiny_imagenet",
        replaced(tiny(), **{"n00000001_1.JPEG": cut(image(progressive=True))}),
        r"n00000001_1\.JPEG is not a complete image",
    ),
    "image of another format": (
        "tiny_imagenet",
        replaced(tiny(), **{"n00000001_1.JPEG": image(1, "GIF", "P")}),
        r"n00000001_1\.JPEG is not a complete image \(not of the formats JPEG and PNG\)",
    ),
    "text instead of an image": (
        "tiny_imagenet",
        replaced(tiny(), **{"val_2.JPEG": b"404 not found"}),
        r"val_2\.JPEG is not a complete image",
    ),
    "16-bit image": ("image_folder", replaced(folders(), **{"train/a/1.png": deep()}), r"train/a/1\.png has more than 8 bits"),
    "16-bit colours": ("image_folder", replaced(folders(), **{"train/a/1.png": deep_colours()}), r"train/a/1\.png has more than 8 bits"),
    "image that claims 3.6 gigapixels": (
        "image_folder",
        replaced(folders(), **{"val/a/1.png": vast()}),
        r"val/a/1\.png is not a complete image",
    ),
    "no list of classes": ("tiny_imagenet", replaced(tiny(), **{"wnids.txt": None}), r"wnids\.txt is missing"),
    "no labels": ("tiny_imagenet", replaced(tiny(), **{ANNOTATIONS: None}), "has no image in val"),
    "empty label file": ("tiny_imagenet", replaced(tiny(), **{ANNOTATIONS: b""}), "has no image in val"),
    "label file of other columns": (
        "tiny_imagenet",
        replaced(tiny(), **{ANNOTATIONS: b"val_1.JPEG,n00000001\n"}),
        "line 1: .* is not an image and",
    ),
    "label of no class": (
        "tiny_imagenet",
        lines(tiny(), ANNOTATIONS, lambda text: text.replace(b"2\t0", b"9\t0", 1)),
        "'n00000009' is not a class",
    ),
    "label file that is binary": ("tiny_imagenet", replaced(tiny(), **{ANNOTATIONS: b"\xff\xfe\x00"}), "is not text"),
    "image labelled twice": ("tiny_imagenet", lines(tiny(), ANNOTATIONS, lambda text: text + text), r"val_1\.JPEG is listed twice"),
    "labelled image that is absent": ("tiny_imagenet", replaced(tiny(), **{"val_1.JPEG": None}), r"val_1\.JPEG is missing"),
    "class without training images": (
        "tiny_imagenet",
        without(tiny(), "train/n00000002"),
        "class n00000002 .* no training images",
    ),
    "unlisted class": ("tiny_imagenet", tiny() | {"set/train/n00000003/images/x.JPEG": image()}, "'n00000003' is not a class"),
    "class without validation images": (
        "image_folder",
        without(folders(), "val/b"),
        "class b has no image in val",
    ),
    "no training images": ("image_folder", without(folders(), "train"), "has no image in train"),
    "archive of another set": ("tiny_imagenet", folders(), r"wnids\.txt is missing; fetch the archive of the right data set"),
    "archive without an image": ("image_folder", {"readme.txt": b"nothing"}, "no image in train"),
    "renditions of one class": (
        "imagenet_r",
        without(renditions(), "n00000002"),
        "holds images of 1 wanted class",
    ),
    "bird without a class": ("cub", lines(birds(), NUMBERS, lambda text: text.replace(b"3 2\n", b"")), "image 3 is missing"),
    "bird without a split": ("cub", lines(birds(), SPLIT, lambda text: text.replace(b"3 1\n", b"")), "image 3 is missing"),
    "split that is no bit": ("cub", lines(birds(), SPLIT, lambda text: text.replace(b"3 1\n", b"3 7\n")), "image 3 has '7', not 0 or 1"),
    "bird that stands twice": ("cub", lines(birds(), "cub/images.txt", lambda text: text + text), "is not a new number with a value"),
    "class without a name": ("cub", replaced(birds(), **{"classes.txt": b"1 001.Auk\n"}), "class 2 is missing"),
    "class that is no number": ("cub", lines(birds(), NUMBERS, lambda text: text.replace(b"3 2\n", b"3 two\n")), "'two' is not a number"),
    "pickle with code in it": ("cifar100", cifar(**{"c/meta": pickle.dumps(_Evil(), 2)}), r"it would call .*print"),
    "pickle that is cut off": ("cifar100", cifar(**{"c/train": cifar()["c/train"][:-500]}), "c/train cannot be read"),
    "pickle of a list": ("cifar100", cifar(**{"c/train": pickle.dumps([1], 2)}), "holds a list, not a table"),
    "table without pixels": ("cifar100", cifar(table={b"data": np.zeros((4, 7), np.uint8)}), "is not a table of images"),
    "labels that do not fit": ("cifar100", cifar(table={b"fine_labels": [0, 1, 0]}), "3 labels do not fit 4 images"),
    "no pickle of the test set": ("cifar100", without(cifar(), "test"), "test is missing"),
}


@pytest.fixture(autouse=True)
def archive(raw: Path) -> Path:
    return raw / "set.zip"


@pytest.mark.parametrize("layout", HEALTHY)
@pytest.mark.parametrize("size", [64, 80])
def test_the_undamaged_sets_are_prepared(archive: Path, layout: str, size: int):
    pack(archive, HEALTHY[layout]())
    prepare("set", registered(layout), size, Path("packed/key"), processes=1)
    found = open_pack(Path("packed/key"))
    assert len(found.classes) == 2
    for split in found.manifest["splits"]:
        assert set(found.split(split).labels.tolist()) == {0, 1}
    assert sorted(path.name for path in Path("packed").iterdir()) == [".key.verified", "key"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_and_leaves_nothing(archive: Path, damage: str):
    layout, files, message = DAMAGE[damage]
    pack(archive, files)
    refused(registered(layout), message)


def test_there_are_at_least_twenty_five_kinds():
    assert len(DAMAGE) + 8 >= 25


def test_a_wrong_checksum(archive: Path):
    pack(archive, tiny())
    refused(registered("tiny_imagenet", source={"sha256": "0" * 64}), r"set\.zip: sha256 is .* expects 000000000000")


def test_a_truncated_archive(archive: Path):
    pack(archive, tiny())
    archive.write_bytes(archive.read_bytes()[:-200])
    refused(registered("tiny_imagenet"), "not a whole archive")


def test_an_absent_archive():
    refused(registered("tiny_imagenet"), "missing; run 'm2mkd data fetch set' first")


def test_a_damaged_member(archive: Path):
    pack(archive, tiny())
    pixels = tiny()["set/val/images/val_1.JPEG"][-100:-50]
    archive.write_bytes(archive.read_bytes().replace(pixels, bytes(50)))
    refused(registered("tiny_imagenet"), r"val_1\.JPEG cannot be read")


@pytest.mark.parametrize(
    ("fields", "message"), [({"classes": 3}, "classes is 3, but the source holds 2"), ({"val_images": 9}, "val_images is 9")]
)
def test_other_counts_than_registered(archive: Path, fields, message: str):
    pack(archive, tiny())
    refused(registered("tiny_imagenet", **fields), message)


def test_a_full_disk(archive: Path):
    pack(archive, tiny())
    with _limit(3000):
        refused(registered("tiny_imagenet"), "cannot write the prepared set set .*; free space")


def test_a_full_disk_while_an_archive_is_decompressed(archive: Path):
    compressed(archive, folders())
    with _limit(3000):
        refused(registered("image_folder"), "cannot write the prepared set set .*File too large.*; free space")


def test_a_folder_in_which_nothing_may_be_written(archive: Path):
    pack(archive, tiny())
    Path("data/packed").write_text("a file where a folder should be")
    refused(registered("tiny_imagenet"), "cannot write the prepared set")


def test_an_unreadable_archive(archive: Path, monkeypatch: pytest.MonkeyPatch):
    pack(archive, tiny())

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied", str(archive))

    monkeypatch.setattr("m2mkd.data.fetch.write_json", deny)
    refused(registered("tiny_imagenet"), "cannot be read .*; allow reading it")


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_an_archive_that_takes_the_place_of_another_is_read(archive: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]):
    """Failed or interrupted, nothing of the first one is used again."""
    dataset = registered("image_folder")

    def fail(*_, **__):
        raise error

    compressed(archive, folders())
    with monkeypatch.context() as patch:
        patch.setattr("m2mkd.data.prepare.write_pack", fail)
        with pytest.raises(error):
            prepare("set", dataset, 64, Path("packed/key"), processes=1)
    assert bool(list(Path().glob("packed/.key.scratch/*"))) == (error is KeyboardInterrupt), "what failed leaves nothing"
    compressed(archive, {name: image(7, "PNG") for name in folders()})
    prepare("set", dataset, 64, Path("packed/key"), processes=1)
    assert set(map(bytes, open_pack(Path("packed/key")).split("train").attributes["sha256"])) == {hashlib.sha256(image(7, "PNG")).digest()}
    assert sorted(path.name for path in Path("packed").iterdir()) == [".key.verified", "key"]


# Odd, but not damaged: ImageNet itself has a PNG named JPEG and some CMYK images.
ODD = {
    "CMYK": image(1, mode="CMYK"),
    "grey": image(1, mode="L"),
    "palette": image(1, "PNG", "P"),
    "a PNG named JPEG": image(1, "PNG"),
    "transparent": image(1, "PNG", "RGBA"),
    "not square": image(1, size=(100, 60)),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_images_are_converted(archive: Path, odd: str):
    pack(archive, replaced(tiny(), **{"n00000001_1.JPEG": ODD[odd]}))
    prepare("set", registered("tiny_imagenet"), 64, Path("packed/key"), processes=1)
    train = open_pack(Path("packed/key")).split("train")
    assert train.images.shape == (6, 64, 64, 3)
    assert train.images[1].std() > 5


def test_an_interrupted_preparation_goes_on(archive: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed, not failed: the packed set of the second attempt is that of an undisturbed one."""
    pack(archive, tiny())
    prepare("set", registered("tiny_imagenet"), 64, Path("packed/undisturbed"), processes=1)
    script = (
        "import os; from tests.archives import registered; from m2mkd.data import packing, prepare; from pathlib import Path\n"
        "packing.CHUNK = 2; mark = packing._Writer.mark\n"
        "def kill(self, images):\n"
        "    mark(self, images)\n"
        "    if self.split == 'train' and images == 4: os.kill(os.getpid(), 9)\n"
        "packing._Writer.mark = kill\n"
        "if __name__ == '__main__': prepare.prepare('set', registered('tiny_imagenet'), 64, Path('packed/key'), processes=1)\n"
    )
    Path("kill.py").write_text(script)
    root = ROOT
    ended = subprocess.run([sys.executable, "kill.py"], env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}, check=False)
    assert ended.returncode == -9
    own = {psutil.Process(), *psutil.Process().children(recursive=True)}
    others = [other for other in psutil.process_iter() if other not in own and _works_in(other, Path.cwd())]
    _, alive = psutil.wait_procs(others, timeout=20)
    assert not alive, "nobody is left behind"
    assert not Path("packed/key").exists()
    assert Path("packed/.key.partial/journal.json").exists()
    prepare("set", registered("tiny_imagenet"), 64, Path("packed/key"), processes=1)
    for path in Path("packed/undisturbed").iterdir():
        assert (Path("packed/key") / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in Path("packed").iterdir()) == ["key", "undisturbed"]


def _works_in(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return process.cwd() == str(folder)
    return False


@contextmanager
def _limit(size: int):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
