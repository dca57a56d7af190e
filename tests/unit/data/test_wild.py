"""Archives as people hand them on: clutter is passed over, other forms of a set are read, and no image is left out without a word."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2mkd.config.layout import LAYOUT_GROUP, layout_class
from m2mkd.data.archives import LARGEST_FILE
from m2mkd.data.contents import Contents
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.errors import InputError
from m2mkd.plugins import BUILT_IN
from tests.archives import (
    HEALTHY,
    Files,
    birds,
    cifar,
    compressed,
    folders,
    image,
    lines,
    listed,
    pack,
    refused,
    registered,
    renditions,
    tiny,
)
from tests.ilsvrc import KIT, TRAIN, VAL, write_ilsvrc

ARCHIVED = [
    name
    for name, cls in ((name, layout_class(name)) for name in BUILT_IN[LAYOUT_GROUP])
    if not (cls.MADE_HERE or cls.IN_PLACE or name == "coco")
]
"""Layouts that are read from archives of labelled images."""
CLUTTER: Files = {
    "README": b"about",
    "README.md": b"about",
    "LICENSE": b"about",
    ".DS_Store": b"\x00\x00\x00\x01Bud1",
    "__MACOSX/set/._wnids.txt": b"\x00\x05\x16\x07",
    "__MACOSX/set/train/a/0.jpg": b"\x00\x05\x16\x07",
    "docs/notes.txt": b"about",
    "set/Thumbs.db": b"\xd0\xcf\x11\xe0",
}


@pytest.fixture(autouse=True)
def archive(raw: Path) -> Path:
    return raw / "set.zip"


def found(path: Path, layout: str) -> dict[str, list[tuple[str, int]]]:
    """Name and label of each image of a split."""
    contents = listed(layout, [path], path.parent / "scratch")
    assert isinstance(contents, Contents)
    return {split: [(m.name, n) for m, n in zip(one.members, one.labels, strict=True)] for split, one in contents.splits.items()}


@pytest.mark.parametrize("layout", HEALTHY)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_clutter_beside_the_folder_is_passed_over(archive: Path, layout: str, form: str):
    write: Callable[[Path, Files], None] = pack if form == "zip" else compressed
    write(archive, HEALTHY[layout]())
    prepare("set", registered(layout), 64, Path("clean"), processes=1)
    write(archive, CLUTTER | HEALTHY[layout]() | CLUTTER)
    prepare("set", registered(layout), 64, Path("cluttered"), processes=1)
    for split in open_pack(Path("clean")).manifest["splits"]:
        clean, cluttered = (open_pack(Path(name)).split(split) for name in ("clean", "cluttered"))
        np.testing.assert_array_equal(clean.images, cluttered.images)
        np.testing.assert_array_equal(clean.labels, cluttered.labels)


def regrouped(inner: str = "", annotated: bool = False) -> Files:
    """Tiny-ImageNet whose validation images were moved to folders of their classes, as readers of folders need them."""
    files = {name: content for name, content in tiny().items() if "set/val/" not in name}
    for number, label in ((10, 1), (9, 2), (2, 1), (1, 2)):
        files[f"set/val/n0000000{label}/{inner}val_{number}.JPEG"] = image(100 + number)
    return files | ({"set/val/val_annotations.txt": b"val_1.JPEG\tn00000002\n"} if annotated else {})


@pytest.mark.parametrize("inner", ["", "images/"])
@pytest.mark.parametrize("annotated", [False, True])
def test_a_regrouped_tiny_imagenet(archive: Path, inner: str, annotated: bool):
    pack(archive, regrouped(inner, annotated))
    val = found(archive, "tiny_imagenet")["val"]
    assert [name.rpartition("/")[2] for name, _ in val] == [f"val_{number}.JPEG" for number in (1, 2, 9, 10)], (
        "in the order of the original"
    )
    assert [label for _, label in val] == [1, 0, 1, 0]
    prepare("set", registered("tiny_imagenet"), 64, Path("packed/key"), processes=1)


def test_training_images_without_their_inner_folder(archive: Path):
    pack(archive, {name.replace("/images/n", "/n"): content for name, content in tiny().items()})
    assert len(found(archive, "tiny_imagenet")["train"]) == 6


def blank(text: bytes) -> bytes:
    return b"\xef\xbb\xbf" + text.replace(b"\n", b" \r\n\r\n") + b"\r\n   \r\n"


@pytest.mark.parametrize(("layout", "make"), [("tiny_imagenet", tiny), ("cub", birds)])
def test_lists_with_blank_lines_as_an_editor_saves_them(archive: Path, layout: str, make: Callable[[], Files]):
    pack(archive, make())
    expected = found(archive, layout)
    pack(archive, {name: blank(content) if name.endswith(".txt") else content for name, content in make().items()})
    assert found(archive, layout) == expected


def test_lists_of_imagenet_with_blank_lines(archive: Path):
    trained, measured = {"n00000001": [image(1)], "n00000002": [image(2)]}, [("n00000002", image(3)), ("n00000001", image(4))]
    paths = [archive.parent / name for name in (TRAIN, VAL, KIT)]
    write_ilsvrc(archive.parent, trained, measured, b"\n1\r\n\n2\n\n")
    contents = listed("imagenet", paths, archive.parent / "scratch")
    assert contents.splits["val"].labels == [1, 0]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_in_another_encoding_in_the_archive_and_its_lists(archive: Path, encoding: str):
    def named(text: str) -> str:
        return text.replace("00", "\u00e9\u00e9")

    files = {
        named(name): named(content.decode("latin-1")).encode(encoding) if name.endswith(".txt") else content
        for name, content in birds().items()
    }
    compressed(archive, {name.encode(encoding).decode("utf-8", "surrogateescape"): content for name, content in files.items()})
    prepare("set", registered("cub"), 64, Path("packed/key"), processes=1)
    opened = open_pack(Path("packed/key"))
    assert opened.classes == ("\u00e9\u00e91.Auk", "\u00e9\u00e92.Bee")
    assert all("\u00e9\u00e9" in name.decode() for name in opened.split("train").attributes["name"])


UNPLACED = {
    "validation image without a label": (
        "tiny_imagenet",
        tiny() | {"set/val/images/val_9.JPEG": image()},
        "val_9.JPEG is an image, but not in",
    ),
    "training image beside its class": ("tiny_imagenet", tiny() | {"set/train/x.JPEG": image()}, "train/x.JPEG is an image, but not in"),
    "image beside the folder": ("tiny_imagenet", tiny() | {"preview.png": image()}, "preview.png is an image, but not in"),
    "another split": ("image_folder", folders() | {"set/test/a/0.png": image()}, "test/a/0.png is an image, but not in train/<class>"),
    "image without a class": ("image_folder", folders() | {"train/0.png": image()}, "train/0.png is an image, but not in train/<class>"),
    "another folder": (
        "imagenet_r",
        renditions() | {"r/misc/art_0.jpg": image()},
        "misc/art_0.jpg is an image, but not in a folder named by",
    ),
    "unlisted bird": ("cub", birds() | {"cub/images/001.X/9.jpg": image()}, "001.X/9.jpg is an image, but not in cub/images.txt"),
    "listed bird that is absent": ("cub", {n: c for n, c in birds().items() if "X/3.jpg" not in n}, "images/002.X/3.jpg is missing"),
    "GIF among the images": (
        "image_folder",
        folders() | {"set/train/a/9.gif": image(1, "GIF", "P")},
        r"a/9\.gif is not a complete image \(not of",
    ),
    "WebP among the images": (
        "imagenet_r",
        renditions() | {"r/n00000001/art_9.webp": image(1, "WEBP")},
        r"art_9\.webp is not a complete image",
    ),
    "image without an end to its name": (
        "image_folder",
        folders() | {"set/train/a/9": image(1, "BMP")},
        "train/a/9 is not a complete image",
    ),
    "half of a copy": (
        "tiny_imagenet",
        tiny() | {"set/train/n00000001/images/x.JPEG.part": image()[:99]},
        r"x\.JPEG\.part is not a complete image",
    ),
}


@pytest.mark.parametrize("case", UNPLACED)
def test_an_image_is_prepared_or_refused(archive: Path, case: str):
    layout, files, message = UNPLACED[case]
    pack(archive, files)
    refused(registered(layout), message)


def test_the_test_set_of_tiny_imagenet_has_no_labels_and_is_left_out(archive: Path):
    pack(archive, tiny() | {"set/test/images/test_0.JPEG": image()})
    assert len(found(archive, "tiny_imagenet")["val"]) == 2


@pytest.mark.parametrize("layout", ARCHIVED)
@pytest.mark.parametrize("other", HEALTHY)
def test_a_data_set_in_the_place_of_another_is_one_line(archive: Path, layout: str, other: str):
    """Where the layouts differ: renditions are made from the archive of the set; folders named by WordNet ids are of another kind."""
    pack(archive, HEALTHY[other]())
    paths = [archive] * {"imagenet": 3, "tiny_imagenet_r": 2}.get(layout, 1)
    if layout.removesuffix("_rendition") == other:
        listed(layout, paths, archive.parent)
        return
    with pytest.raises(InputError, match=r"^/.*set\.zip: .*; (fetch|put)"):
        listed(layout, paths, archive.parent)


@pytest.mark.parametrize("layout", ARCHIVED)
def test_what_is_no_archive_in_its_place_is_one_line(archive: Path, layout: str):
    archive.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n")
    with pytest.raises(InputError, match="not a whole archive"):
        listed(layout, [archive] * 3, archive.parent)


@pytest.mark.parametrize(("layout", "count"), [("tiny_imagenet", 1), ("imagenet", 3), ("tiny_imagenet_r", 2), ("digits", 1)])
def test_more_or_fewer_files_than_a_layout_has(layout: str, count: int):
    one = registered(layout)
    dataset = one.model_copy(update={"files": one.files * (count + 1)})
    refused(dataset, f"set: files: layout '{layout}' is read from {count}, not from {count + 1}; register {count}")


def test_a_training_set_of_cifar_is_larger_than_any_other_file_that_is_read_at_once(archive: Path):
    count = LARGEST_FILE // 3072 + 1  # the original has twice as many
    table = {b"data": np.zeros((count, 3072), np.uint8), b"fine_labels": [number % 2 for number in range(count)]}
    pack(archive, cifar(**{"c/train": pickle.dumps(table, 3)}))
    _, splits = listed("cifar100", [archive], archive.parent)
    assert splits["train"][0].shape == (count, 32, 32, 3)


@pytest.mark.parametrize("changed", ["c/meta", "c/train", "c/test"])
def test_a_table_of_cifar_with_other_columns(archive: Path, changed: str):
    """As that of CIFAR-10 has them."""
    pack(archive, cifar() | {changed: b"\x80\x02}U\x06labels]K\x00as."})
    with pytest.raises(InputError, match=r"set\.zip: (meta names no fine classes|\w+ is not a table of images \(data is missing)"):
        listed("cifar100", [archive], archive.parent)


def cells(depth: int) -> bytes:
    """A matrix of MATLAB in which a cell holds a cell, and so on."""
    content = b""
    for _ in range(depth):
        head = (
            struct.pack("<II4xxxxII", 6, 8, 0, 0)[:8]
            + struct.pack("<II", 1, 0)
            + struct.pack("<IIii", 5, 8, 1, 1)
            + struct.pack("<II", 1, 0)
        )
        content = struct.pack("<II", 14, len(head) + len(content)) + head + content
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + content


def test_a_matrix_that_crashes_its_reader(archive: Path):
    """In a process of its own, so that it is one line here, too."""
    write_ilsvrc(archive.parent, {"n00000001": [image(1)]}, [("n00000001", image(3))], meta=cells(30_000))
    files = tuple(registered("imagenet").files[0].model_copy(update={"name": name}) for name in (TRAIN, VAL, KIT))
    refused(registered("imagenet").model_copy(update={"files": files}), "crashed the reader|is not the table of classes")


def test_an_annotation_of_many_columns_is_read_by_its_first_two(archive: Path):
    pack(archive, lines(tiny(), "val_annotations.txt", lambda text: text.replace(b"\t0", b"\t0\t0")))
    assert len(found(archive, "tiny_imagenet")["val"]) == 2
