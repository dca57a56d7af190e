"""Images of one's own that something is wrong with: one line for each."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from m2mkd.config import load
from tests.archives import image
from tests.unit.data.own_images import WHOLE, as_csv, as_folder, as_parquet, as_webdataset, refused


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/datasets.yaml").write_text("{}")
    load.datasets.cache_clear()
    yield tmp_path
    load.datasets.cache_clear()


def nested(top: Path) -> None:
    (top / "train/a/old").mkdir()
    (top / "train/a/old/0.png").write_bytes(image())


def stray(top: Path) -> None:
    (top / "train/0.png").write_bytes(image())


def emptied(top: Path) -> None:
    (top / "train/a/1.png").write_bytes(b"")


def damaged(top: Path) -> None:
    (top / "train/a/1.png").write_bytes(image(1, "PNG")[:-60])


def no_image(top: Path) -> None:
    (top / "val/b/9.png").write_text("404 not found")


def led_out(top: Path) -> None:
    Path("outside.png").write_bytes(image(1, "PNG"))
    (top / "train/a/9.png").symlink_to(Path("outside.png").absolute())


def linked(top: Path) -> None:
    (top / "train/c").symlink_to((top / "train/a").absolute())


def other_folder(top: Path) -> None:
    (top / "extra/a").mkdir(parents=True)


def without_class(top: Path) -> None:
    for file in (top / "val/b").iterdir():
        file.unlink()


def one_class(top: Path) -> None:
    for split in ("train", "val"):
        (top / split / "b").rename(top.parent / f"{split}-b")


def no_val(top: Path) -> None:
    (top / "val").rename(top.parent / "taken-away")


def pipe(top: Path) -> None:
    os.mkfifo(top / "train/a/9.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (nested, "images/train/a/old: is a folder in that of class a; classes are not nested"),
        (stray, "images/train/0.png: is in the folder of no class"),
        (emptied, "images/train/a/1.png: is empty"),
        (damaged, "train/a/1.png is not a complete image"),
        (no_image, "val/b/9.png is not a complete image"),
        (led_out, "images/train/a/9.png: leads out of images"),
        (linked, "images/train/c: is a link to a folder"),
        (other_folder, "images/extra: is next to train, val, but is not a split"),
        (without_class, "images: class b has no image in val"),
        (one_class, "images: holds images of 1 class, but two are needed"),
        (no_val, "images: has no split val or test; give the share"),
        (pipe, "is a pipe"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_wrong_folder_is_one_line(damage, message):
    damage(as_folder(Path("images"), WHOLE, {}))
    assert message in refused("add", "mine", "images")
    assert not Path("config/own-datasets.yaml").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("missing.png,a,train", "line 12: missing.png is not a file in here"),
        ("pictures,a,train", "line 12: pictures is not a file in here"),
        ("../outside.png,a,train", "line 12: ../outside.png leads out of here"),
        ("/etc/hostname,a,train", "line 12: /etc/hostname leads out of here"),
        ("pictures/atrain0.png,a,train", "line 12: pictures/atrain0.png is listed twice"),
        ("pictures/atrain0.png,,train", "line 12: has no label"),
        (",a,train", "line 12: has no path"),
        ("pictures/btrain1.png,a,sometimes", "line 12: 'sometimes' is not a split"),
    ],
)
def test_a_wrong_line_of_a_table_is_one_line(line, message):
    path = as_csv(Path("here"), WHOLE, {})
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    assert message in refused("add", "mine", str(path))


def shard_with(**files: bytes) -> Path:
    top = as_webdataset(Path("shards"), WHOLE, {})
    with tarfile.open(top / "train/0.tar", "a") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return top


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x_png": image()}, "x.png has no label"),
        ({"x_cls": b"0"}, "x.cls is a label without an image"),
        ({"x_png": image(), "x_cls": b"7"}, "x.cls has the class 7, but 2 are named"),
        ({"x_png": image(), "x_json": b"{"}, "x.json holds no class"),
        ({"x_png": image(), "x_json": b'{"caption": "a"}'}, "x.json holds no class"),
    ],
)
def test_a_wrong_shard_is_one_line(files, message):
    assert message in refused("add", "mine", str(shard_with(**files)))


def test_what_is_not_recognised_is_one_line():
    assert "there is no such file or folder" in refused("add", "mine", "nothing")
    Path("text.txt").write_text("text")
    assert "looks like none of the layouts" in refused("add", "mine", "text.txt")
    as_webdataset(Path("both"), WHOLE, {})
    as_parquet(Path("both/rows"), WHOLE, {})
    assert "could be parquet or webdataset; say which it is, --layout parquet|webdataset" in refused("add", "mine", "both")
    assert "layout 'cub' is not read in place" in refused("add", "mine", "both", "--layout", "cub")
    assert "did you mean 'webdataset'?" in refused("add", "mine", "both", "--layout", "webdatset")
    assert "did you mean 'val_share'?" in refused("add", "mine", "both", "--layout", "webdataset", "--set", "val_shar=0.2")
    assert "val_share: Input should be less than 1" in refused("add", "mine", "both", "--layout", "webdataset", "--val-share", "2")
    assert "write it as name@pixels" in refused("add", "Mine_1", "both")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "folder", "path": "images"}, "content is missing; run 'm2mkd data add NAME PATH'"),
        ({"layout": "folder"}, "has a path; give the folder"),
        ({"layout": "cub", "path": "images", "content": "0" * 64}, "has no path beside files and subset"),
        ({"layout": "foldr", "path": "images"}, "did you mean 'folder'?"),
        ({"layout": {"val_share": 0.1}}, "a layout is a name, or a mapping with a kind"),
        ({"layout": {"kind": "csv", "column": 1}, "path": "x"}, "column is not a parameter of the layout"),
    ],
)
def test_a_wrong_entry_is_one_line(fields, message):
    Path("config/own-datasets.yaml").write_text(yaml.safe_dump({"mine": {"classes": 2, **fields}}))
    assert message in refused("list")


def test_a_name_of_ours_is_not_taken():
    Path("config/datasets.yaml").write_text(yaml.safe_dump({"mine": {"classes": 2, "layout": "cub"}}))
    Path("config/own-datasets.yaml").write_text(yaml.safe_dump({"mine": {"classes": 2, "layout": "cub"}}))
    assert "mine is in config/datasets.yaml too; give it another name" in refused("list")
