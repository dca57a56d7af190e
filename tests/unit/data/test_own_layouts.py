"""Images of one's own: the same set from a folder, a table, Parquet and WebDataset, and one line for each thing that is wrong."""

import csv
import io
import json
import os
import shutil
import tarfile
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from m2mkd.cli import app, main
from m2mkd.config import load
from m2mkd.data.pack import open_pack
from m2mkd.study.data import resolve_data
from tests.archives import image

Images = dict[tuple[str, str], list[bytes]]
"""Files by split and class; the split is empty where there is none."""


def pictures(seed: int, count: int) -> list[bytes]:
    return [image(seed + number, "PNG", size=(20, 24)) for number in range(count)]


WHOLE: Images = {
    ("train", "b"): pictures(0, 3),
    ("train", "a"): pictures(10, 3),
    ("val", "b"): pictures(20, 2),
    ("val", "a"): pictures(30, 2),
}
UNDIVIDED: Images = {("", name): pictures(10 * ord(name), 10) for name in "ab"}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def as_folder(top: Path, images: Images, words: dict[str, str]) -> Path:
    for (split, name), files in images.items():
        for number, content in enumerate(files):
            path = top / words.get(split, split) / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (top / "README.md").write_text("Images")
    return top


def as_csv(top: Path, images: Images, words: dict[str, str]) -> Path:
    rows = []
    (top / "pictures").mkdir(parents=True)
    for (split, name), files in reversed(images.items()):
        for number, content in enumerate(files):
            (top / f"pictures/{name}{split}{number}.png").write_bytes(content)
            rows.append(
                {"file": f"pictures/{name}{split}{number}.png", "label": name} | ({"split": words.get(split, split)} if split else {})
            )
    with (top / "set.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return top / "set.csv"


def as_parquet(top: Path, images: Images, words: dict[str, str]) -> Path:
    """Two shards for each split, with classes in another order than that of their names."""
    classes = ["b", "a"]
    facts = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": classes}}}}).encode()}
    top.mkdir()
    for split in dict.fromkeys(split for split, _ in images):
        rows = [(content, classes.index(name)) for (other, name), files in images.items() if other == split for content in files]
        for shard in range(2):
            contents = pa.array([{"bytes": content, "path": None} for content, _ in rows[shard::2]], STRUCT)
            table = pa.table({"image": contents, "label": [label for _, label in rows[shard::2]]}).replace_schema_metadata(facts)
            pq.write_table(table, top / f"{words.get(split, split) or 'rows'}-0000{shard}-of-00002.parquet", row_group_size=2)
    return top


def as_webdataset(top: Path, images: Images, words: dict[str, str]) -> Path:
    top.mkdir()
    (top / "classnames.txt").write_text("b\na\n")
    for split in dict.fromkeys(split for split, _ in images):
        rows = [(content, name) for (other, name), files in images.items() if other == split for content in files]
        for shard in range(2):
            path = top / words.get(split, split) / f"{shard}.tar"
            path.parent.mkdir(exist_ok=True)
            with tarfile.open(path, "w") as archive:
                for number, (content, name) in enumerate(rows[shard::2]):
                    label = str("ba".index(name)).encode() if shard else json.dumps({"label": name}).encode()
                    for suffix, data in (("png", content), ("json" if not shard else "cls", label)):
                        entry = tarfile.TarInfo(f"s{number:04}.{suffix}")
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))
    return top


FORMS = {"folder": as_folder, "csv": as_csv, "parquet": as_parquet, "webdataset": as_webdataset}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/datasets.yaml").write_text("{}")
    load.datasets.cache_clear()
    yield tmp_path
    load.datasets.cache_clear()


def add(path: Path | str, *options: str, name: str = "mine") -> str:
    done = CliRunner().invoke(app, ["data", "add", name, str(path), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(["data", *arguments])
    assert ended.value.code == 2
    (line,) = said.getvalue().splitlines()
    assert ";" in line, "says how to fix it"
    return line


def entry() -> dict:
    return yaml.safe_load(Path("config/own-datasets.yaml").read_text())["mine"]


def prepared(size: int) -> tuple[str, dict]:
    """Folder and manifest of the set."""
    assert CliRunner().invoke(app, ["data", "prepare", f"mine@{size}"], catch_exceptions=False).exit_code == 0
    folder = resolve_data(f"mine@{size}", "test")[0].folder
    return folder, open_pack(Path(folder), verify="always").manifest


@pytest.mark.parametrize("images", [WHOLE, UNDIVIDED], ids=["splits", "share"])
def test_the_same_images_are_the_same_set_from_every_container(images):
    found = {}
    for form, make in FORMS.items():
        words = {"val": {"folder": "valid", "csv": "test", "parquet": "validation"}.get(form, "val")}
        options = [] if images is WHOLE else ["--val-share", "0.3"]
        said = add(make(Path(f"here-{form}"), images, words), *options, "--licence", "CC0-1.0", "--write")
        assert f": {form}\n" in said
        load.datasets.cache_clear()
        facts = {key: value for key, value in entry().items() if key not in ("layout", "path")}
        made = [prepared(size) for size in (16, 80)]
        found[form] = facts, made
        shutil.rmtree("data/packed")
        Path("config/own-datasets.yaml").unlink()
        load.datasets.cache_clear()
    for form in FORMS:
        assert found[form] == found["folder"], form
    facts, ((_, manifest), (_, encoded)) = found["folder"]
    assert (manifest["splits"]["val"]["storage"], encoded["splits"]["val"]["storage"]) == ("pixels", "encoded")
    counts = {split: its["per_class"] for split, its in manifest["splits"].items()}
    assert counts == ({"train": [3, 3], "val": [2, 2]} if images is WHOLE else {"train": [7, 7], "val": [3, 3]})
    assert manifest["classes"] == ["a", "b"] and facts["classes"] == 2


def test_what_is_packed_are_the_images_with_their_classes():
    add(as_folder(Path("images"), WHOLE, {}), "--write")
    folder, _ = prepared(80)
    for name in ("train", "val"):
        split = open_pack(Path(folder)).split(name)
        shown = {(int(label), pixels.tobytes()) for label, pixels in zip(split.labels, split.images[:], strict=True)}
        wanted = {
            ("ab".index(class_name), np.asarray(Image.open(io.BytesIO(content))).tobytes())
            for (other, class_name), files in WHOLE.items()
            if other == name
            for content in files
        }
        assert shown == wanted


def test_names_and_order_of_files_decide_nothing_and_a_changed_image_does():
    as_folder(Path("images"), UNDIVIDED, {})
    add("images", "--val-share", "0.2", "--write")
    before = entry()["content"]
    for file in Path("images/a").iterdir():
        file.rename(file.with_name(f"{9 - int(file.stem)}-renamed.png"))
    assert f"digest {before}, as expected" in CliRunner().invoke(app, ["data", "verify", "mine"]).output
    Path("images/a/0-renamed.png").write_bytes(image(77, "PNG"))
    assert f"but the registry has {before[:12]}" in refused("verify", "mine")
    assert f"but the registry has {before[:12]}" in refused("prepare", "mine@16")
    assert not list(Path("data").glob("packed/*/*"))


def test_a_sheet_and_the_entry_are_shown_and_nothing_is_written_unasked():
    said = add(as_folder(Path("images"), WHOLE, {}), "--title", "Two letters")
    assert "train: 6 images of 2 classes, 3 to 3 each" in said and "val: 4 images of 2 classes, 2 to 2 each" in said
    assert not Path("config/own-datasets.yaml").exists()
    shown = yaml.safe_load(said.partition("--write:\n")[2])["mine"]
    assert shown["title"] == "Two letters" and shown["path"] == "images" and shown["layout"] == "folder"
    sheet = np.asarray(Image.open("data/sheets/mine.png"))
    assert sheet.shape[0] > 4 * 72 and len(np.unique(sheet)) > 100
    add("images", "--write")
    assert "there is a data set 'mine' already" in refused("add", "mine", "images")
    add("images", "--write", name="again")
    assert list(yaml.safe_load(Path("config/own-datasets.yaml").read_text())) == ["mine", "again"]


def test_images_in_both_splits_or_in_two_classes_are_told():
    images = dict(WHOLE)
    images["val", "a"] = [*WHOLE["val", "a"], WHOLE["train", "a"][0]]
    images["train", "b"] = [*WHOLE["train", "b"], WHOLE["train", "a"][1]]
    said = add(as_folder(Path("images"), images, {}))
    assert "warning: 1 images are in train and in val" in said and "warning: 1 images are in several classes" in said


def test_of_two_measured_splits_one_is_chosen():
    images = WHOLE | {("test", name): UNDIVIDED["", name][:4] for name in "ab"}
    as_folder(Path("images"), images, {})
    assert "has val and test, but one split is measured; choose it, val_from" in refused("add", "mine", "images")
    assert "val: 8 images" in add("images", "--set", "val_from=test")
    assert "val: 4 images" in add("images", "--set", "val_from=val")


def test_equal_images_are_never_divided_by_a_share():
    images = {("", name): [*files[:3], *[files[0]] * 4] for (_, name), files in UNDIVIDED.items()}
    assert "are in train and in val" not in add(as_folder(Path("images"), images, {}), "--val-share", "0.5")


def test_columns_of_a_table_can_be_named():
    path = as_csv(Path("here"), WHOLE, {})
    path.write_text(path.read_text().replace("file,label,split", "where,what,part"))
    assert "has no column path or file" in refused("add", "mine", str(path))
    parts = ("path_column=where", "label_column=what", "split_column=part")
    assert "train: 6 images" in add(path, *(word for part in parts for word in ("--set", part)))
    path.rename(path.with_suffix(".tsv"))
    path.with_suffix(".tsv").write_text(path.with_suffix(".tsv").read_text().replace(",", "\t"))
    assert "train: 6 images" in add(path.with_suffix(".tsv"), *(word for part in parts for word in ("--set", part)))


# --- wrong ones ------------------------------------------------------------------------------------------------------


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
        (stray, "images/train/0.png: lies in the folder of no class"),
        (emptied, "images/train/a/1.png: is empty"),
        (damaged, "train/a/1.png is not a complete image"),
        (no_image, "val/b/9.png is not a complete image"),
        (led_out, "images/train/a/9.png: leads out of images"),
        (linked, "images/train/c: is a link to a folder"),
        (other_folder, "images/extra: lies beside train, val, but is no split"),
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
        ("pictures/btrain1.png,a,sometimes", "line 12: 'sometimes' is no split"),
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
