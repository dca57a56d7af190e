"""Parquet files with the bytes of images, as hubs hand Tiny-ImageNet, ImageNet, CIFAR and CUB out."""

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.data import parquet as reader
from m2mkd.data.archives import open_archive
from m2mkd.data.layouts import tiny_imagenet
from m2mkd.data.pack import open_pack
from m2mkd.data.parquet import ParquetRow, parquet
from m2mkd.data.prepare import prepare
from m2mkd.errors import InputError
from tests.archives import image, refused
from tests.special_files import not_a_file

NAMES = ["n00000002", "n00000001"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def features(label: str, names: list[str] | None, image_column: str = "image") -> dict[bytes, bytes]:
    """What the hub's own library writes about the columns."""
    kind: dict[str, Any] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    return {b"huggingface": json.dumps({"info": {"features": {image_column: {"_type": "Image"}, label: kind}}}).encode()}


def write(
    path: Path,
    contents: list[bytes | None],
    labels: list[Any],
    names: list[str] | None = NAMES,
    columns: tuple[str, str] = ("image", "label"),
    paths: list[str | None] | None = None,
    rows: int = 3,
    **options: Any,
) -> Path:
    """A file of images, in groups of some rows."""
    images = pa.array([{"bytes": c, "path": p} for c, p in zip(contents, paths or [None] * len(contents), strict=True)], STRUCT)
    table = pa.table({columns[0]: images, columns[1]: pa.array(labels)})
    pq.write_table(table.replace_schema_metadata(features(columns[1], names, columns[0])), path, row_group_size=rows, **options)
    return path


def pictures(count: int, start: int = 0, form: str = "JPEG") -> list[bytes]:
    return [image(start + number, form) for number in range(count)]


def registered(*files: SourceFile | str, classes: int = 2, **fields: Any) -> DatasetConfig:
    sources = tuple(file if isinstance(file, SourceFile) else SourceFile(name=file) for file in files)
    return DatasetConfig(title="A set", layout="parquet", classes=classes, licence="none", files=sources, **fields)


TRAIN, VAL = "set-train-00000-of-00001.parquet", "set-validation-00000-of-00001.parquet"


@pytest.mark.parametrize("size", [64, 80])
@pytest.mark.parametrize("compression", ["NONE", "SNAPPY", "ZSTD", "GZIP"])
def test_images_in_several_files_and_groups(raw: Path, size: int, compression: str):
    train, val = pictures(7), pictures(4, 100)
    options = {"compression": compression, "write_page_checksum": compression == "ZSTD"}
    write(raw / "set-train-00000-of-00002.parquet", train[:4], [0, 1, 0, 1], paths=["a.JPEG", "b.JPEG", None, "d.JPEG"], **options)
    write(raw / "set-train-00001-of-00002.parquet", train[4:], [1, 1, 0], rows=1, **options)
    write(raw / VAL, val, [0, 1, 1, 0], rows=100, **options)
    shards = ("set-train-00000-of-00002.parquet", "set-train-00001-of-00002.parquet")
    prepare("set", registered(*shards, VAL, train_images=7, val_images=4), size, Path("packed/key"), processes=1)
    opened = open_pack(Path("packed/key"))
    assert opened.classes == tuple(NAMES)
    assert list(opened.manifest["splits"]) == ["train", "val"]
    assert opened.split("train").labels.tolist() == [0, 1, 0, 1, 1, 1, 0]
    for split, contents in (("train", train), ("val", val)):
        found = opened.split(split)
        for index, content in enumerate(contents):
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            if split == "train" or size > 64:
                np.testing.assert_array_equal(found.images[index : index + 1][0], pixels)
    names = [name.decode() for name in opened.split("train").attributes["name"]]
    assert names == ["a.JPEG", "b.JPEG", f"{shards[0]}#2", "d.JPEG", *(f"{shards[1]}#{row}" for row in range(3))]
    assert opened.manifest["source"]["files"].keys() == {*shards, VAL}


FORMS: dict[str, dict[str, Any]] = {
    "Tiny-ImageNet": {"names": NAMES},
    "ImageNet": {"names": ["tench, Tinca tinca", "goldfish, Carassius auratus"]},
    "CIFAR": {"names": ["apple", "bear"], "columns": ("img", "fine_label"), "form": "PNG"},
    "without names": {"names": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_sets_as_the_hub_has_them(raw: Path, form: str):
    options = dict(FORMS[form])
    kind = options.pop("form", "JPEG")
    for split in ("train", "test"):
        write(raw / f"{split}-00000-of-00001.parquet", pictures(2, form=kind), [1, 0], **options)
    prepare("set", registered("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"), 32, Path("packed/key"), processes=1)
    opened = open_pack(Path("packed/key"))
    assert opened.classes == tuple(options["names"] or ("0", "1"))
    assert opened.split("val").labels.tolist() == [1, 0]


def test_cifar_has_two_columns_of_labels(raw: Path):
    contents = pa.array([{"bytes": c, "path": None} for c in pictures(2)], STRUCT)
    table = pa.table({"img": contents, "fine_label": [1, 0], "coarse_label": [0, 0]})
    pq.write_table(table.replace_schema_metadata(features("fine_label", NAMES, "img")), raw / VAL)
    assert parquet([raw / VAL], [None]).splits["val"].labels == [1, 0]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_plain_bytes(raw: Path, kind: pa.DataType):
    pq.write_table(pa.table({"image": pa.array(pictures(2), kind), "label": pa.array([1, 0], pa.uint8())}), raw / VAL)
    found = parquet([raw / VAL], [None])
    assert [member.read() for member in found.splits["val"].members] == pictures(2)
    assert found.classes == ("0", "1")


def test_a_pack_of_real_images_is_the_same_set_in_either_form(raw: Path, packs_dir: Path):
    """Tiny-ImageNet as its makers hand it out, and the same images in the form of the hub: the same pixels, labels and digests."""
    source = packs_dir / "tiny-imagenet-100x100.zip"
    contents = tiny_imagenet([open_archive(source, raw)])
    chosen = {split: np.unique(listing.labels, return_index=True)[1] for split, listing in contents.splits.items()}
    with zipfile.ZipFile(raw / "tiny.zip", "w") as archive:
        archive.writestr("t/wnids.txt", "\n".join(contents.classes))
        for split, part in chosen.items():
            members, labels = (
                [values[index] for index in part] for values in (contents.splits[split].members, contents.splits[split].labels)
            )
            if split == "val":
                rows = [f"{m.name.rpartition('/')[2]}\t{contents.classes[n]}\t0\t0\t9\t9\n" for m, n in zip(members, labels, strict=True)]
                archive.writestr("t/val/val_annotations.txt", "".join(rows))
            for member in members:
                archive.writestr("t/" + member.name.partition("/")[2], member.read())
            write(raw / f"tiny-{split}.parquet", [member.read() for member in members], labels, list(contents.classes), rows=50)
    original = DatasetConfig(title="A set", layout="tiny_imagenet", classes=100, licence="none", files=(SourceFile(name="tiny.zip"),))
    prepare("set", original, 64, Path("packed/original"))
    prepare("set", registered("tiny-train.parquet", "tiny-val.parquet", classes=100), 64, Path("packed/hub"))
    for split in chosen:
        a, b = (open_pack(Path(f"packed/{form}")).split(split) for form in ("original", "hub"))
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.attributes["sha256"], b.attributes["sha256"])


def test_the_registry_says_which_split_a_file_is_of(raw: Path):
    files = [SourceFile(name="one.parquet", split="val"), SourceFile(name="train-or-test.parquet", split="train")]
    for file in files:
        write(raw / file.name, pictures(2), [0, 1])
    prepare("set", registered(*files), 32, Path("packed/key"), processes=1)
    assert list(open_pack(Path("packed/key")).manifest["splits"]) == ["train", "val"]
    assert files[0].identity != SourceFile(name="one.parquet").identity, "another split is another set"


def test_a_set_that_is_only_measured_on(raw: Path):
    write(raw / "imagenet-r-test.parquet", pictures(2), [0, 1])
    assert list(parquet([raw / "imagenet-r-test.parquet"], [None]).splits) == ["val"]


def test_without_its_library_the_fix_is_named(raw: Path, monkeypatch: pytest.MonkeyPatch):
    write(raw / VAL, pictures(2), [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"parquet: pyarrow, which reads Parquet, is not installed; install the extra 'pipeline'"):
        parquet([raw / VAL], [None])


def table(columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


def written(contents: list[bytes | None], labels: list[Any], **options: Any) -> bytes:
    return write(Path("made.parquet"), contents, labels, **options).read_bytes()


DAMAGE: dict[str, tuple[Any, str]] = {
    "text": (lambda: b"404 not found" * 10, "is not a complete Parquet file"),
    "nothing": (lambda: b"", "is not a complete Parquet file"),
    "a zip": (lambda: b"PK\x03\x04" * 20, "is not a complete Parquet file"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n", "is not a complete Parquet file"),
    "cut off": (lambda: written(pictures(2), [0, 1])[:-100], "is not a complete Parquet file"),
    "no images": (lambda: table({"text": ["a"], "label": [0]}), "lacks a column image or img of bytes"),
    "no labels": (
        lambda: table({"image": pictures(1)}),
        "lacks a column image or img of bytes and a column fine_label or label of numbers",
    ),
    "labels that are text": (lambda: table({"image": pictures(1), "label": ["a"]}), "lacks a column"),
    "images that are text": (lambda: table({"image": ["x"], "label": [0]}), "lacks a column"),
    "images that are lists": (lambda: table({"image": [[1, 2]], "label": [0]}), "lacks a column"),
    "a test set without labels": (lambda: written(pictures(2), [-1, -1]), "row 0 has the label -1, which is not one of 2 classes"),
    "a label of no class": (lambda: written(pictures(3), [0, 1, 9]), "row 2 has the label 9, which is not one of 2 classes"),
    "a label beyond all sets": (lambda: written(pictures(2), [0, 1 << 60], names=None), "row 1 has the label 1152921504606846976"),
    "rows without a label": (lambda: written(pictures(2), [0, None]), "1 of its rows have no label"),
    "a class without images": (lambda: written(pictures(2), [0, 0]), "class n00000001 has no image in val"),
    "an image that is only named": (
        lambda: written([*pictures(1), None], [0, 1], paths=["a", "b.jpg"]),
        "b.jpg holds no bytes of an image; fetch a file that",
    ),
    "an image that is damaged": (
        lambda: written([*pictures(1), image(1)[:900]], [0, 1], paths=["a", "b.jpg"]),
        "b.jpg is not a complete image",
    ),
    "an image of another format": (
        lambda: written(pictures(2, form="GIF"), [0, 1]),
        r"parquet#0 is not a complete image \(not of the formats",
    ),
    "a long name": (lambda: written(pictures(2), [0, 1], paths=["x" * 600, "y"]), "is a name of 600 characters"),
    "facts that are no JSON": (
        lambda: table({"image": pictures(2), "label": [0, 1]}, {b"huggingface": b"{"}),
        "is not a complete Parquet file",
    ),
    "facts without depth": (
        lambda: table({"image": pictures(2), "label": [0, 1]}, {b"huggingface": b"[" * 99_999}),
        "not a complete Parquet file",
    ),
    "no rows": (lambda: written([], []), "lacks a column|no image in val|has no image"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_and_leaves_nothing(raw: Path, damage: str):
    make, message = DAMAGE[damage]
    (raw / VAL).write_bytes(make())
    refused(registered(VAL), message)


@pytest.mark.parametrize(
    "facts", [b"[]", b"3", b'{"info": 3}', b'{"info": {"features": {"label": {"names": [1]}}}}', b'{"info": {"features": []}}']
)
def test_facts_of_another_form_name_no_classes(raw: Path, facts: bytes):
    (raw / VAL).write_bytes(table({"image": pictures(2), "label": [0, 1]}, {b"huggingface": facts}))
    assert parquet([raw / VAL], [None]).classes == ("0", "1")


def test_files_that_do_not_belong_together(raw: Path):
    write(raw / TRAIN, pictures(2), [0, 1])
    write(raw / VAL, pictures(2), [0, 1], names=["apple", "bear"])
    with pytest.raises(InputError, match=r"validation.*has other classes than .*train"):
        parquet([raw / TRAIN, raw / VAL], [None, None])
    with pytest.raises(InputError, match=r"train.*: no file belongs to split val; register one, with 'split: val' if"):
        parquet([raw / TRAIN], [None])
    for name in ("rows.parquet", "train-of-validation.parquet"):
        write(raw / name, pictures(2), [0, 1])
        with pytest.raises(
            InputError, match="its name does not say which split it belongs to; register it with 'split: train' or 'split: val'"
        ):
            parquet([raw / name], [None])
    refused(registered(), r"files: layout 'parquet' is read from 1, not from 0")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(raw: Path, kind: str):
    with pytest.raises(InputError, match=f"is a {kind}; replace it by the file itself"):
        parquet([not_a_file(raw, kind)], ["val"])


def test_groups_of_rows_that_are_too_large(raw: Path, monkeypatch: pytest.MonkeyPatch):
    write(raw / VAL, pictures(4), [0, 1, 0, 1], rows=2)
    monkeypatch.setattr(reader, "LARGEST_GROUP", 1000)
    with pytest.raises(InputError, match=r"has a row group of \d+ bytes; write it again with row groups of less than 1000"):
        parquet([raw / VAL], [None])


def test_more_rows_than_any_set_has(raw: Path, monkeypatch: pytest.MonkeyPatch):
    write(raw / VAL, pictures(4), [0, 1, 0, 1])
    monkeypatch.setattr(reader, "MOST_MEMBERS", 3)
    with pytest.raises(InputError, match="holds more than 3 rows"):
        parquet([raw / VAL], [None])


def test_a_page_whose_checksum_is_wrong_is_noticed(raw: Path):
    path = write(raw / VAL, pictures(2), [0, 1], compression="NONE", write_page_checksum=True, use_dictionary=False)
    content, inside = path.read_bytes(), pictures(2)[1][500:520]
    path.write_bytes(content.replace(inside, bytes(20)))
    members = parquet([path], [None]).splits["val"].members
    with pytest.raises(InputError, match="is not a complete Parquet file"):
        members[1].read()


def test_a_row_is_small_and_read_in_any_order_and_process(raw: Path):
    path = write(raw / VAL, pictures(7), [0, 1, 0, 1, 0, 1, 0], rows=2)
    members = parquet([path], [None]).splits["val"].members
    assert [members[row].read() for row in (6, 0, 5, 1)] == [pictures(7)[row] for row in (6, 0, 5, 1)]
    assert isinstance(members[6], ParquetRow) and (members[6].group, members[6].row) == (3, 0)
