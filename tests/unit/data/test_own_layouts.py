"""Images of one's own: the same set from a folder, a table, Parquet and WebDataset."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.data.pack import open_pack
from m2mkd.study.data import resolve_data
from tests.archives import image
from tests.unit.data.own_images import FORMS, UNDIVIDED, WHOLE, add, as_csv, as_folder, refused


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/datasets.yaml").write_text("{}")
    load.datasets.cache_clear()
    yield tmp_path
    load.datasets.cache_clear()


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
