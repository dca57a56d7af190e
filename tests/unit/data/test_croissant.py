"""Croissant metadata: read back by MLCommons' own library, which refuses what is no Croissant."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m2mkd.config import load
from m2mkd.data.croissant import write_croissant
from m2mkd.data.pack import Pack, open_pack
from m2mkd.data.packing import Content, SplitSource, write_pack
from m2mkd.data.prepare import prepare
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def packs(tmp_path_factory, packs_dir: Path) -> dict[str, Pack]:
    """Sets of every kind: made here, encoded photographs without a training split, and an array."""
    root = tmp_path_factory.mktemp("croissant")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        registry = load.datasets()
        patch.chdir(root)
        Path("data/raw").mkdir(parents=True)
        Path("config").symlink_to(ROOT / "config")  # lists of subsets
        found = {}
        for name, size in (("digits", 8), ("digits-r", 8), ("tiny-imagenet-r-synthetic", 80), ("cifar-100-fewshot", 32)):
            for file in (file for files in registry[name].sources for file in files):
                if (packs_dir / file.name).exists():
                    Path("data/raw", file.name).symlink_to(packs_dir / file.name)
            prepare(name, registry[name], size, Path("packed", name).absolute())
            found[name] = open_pack(root / "packed" / name)
        return found


@pytest.mark.parametrize("name", ["digits", "digits-r", "tiny-imagenet-r-synthetic", "cifar-100-fewshot"])
def test_it_is_valid_and_its_records_are_those_of_the_set(packs, tmp_path: Path, name: str):
    import mlcroissant

    pack, dataset = packs[name], load.datasets()[name]
    write_croissant(pack, dataset, tmp_path)
    described = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    issues = described.metadata.ctx.issues
    assert not issues.errors
    assert described.metadata.name == name
    sources = {file.name: file for file in described.metadata.distribution}
    assert {file.name for file in dataset.files} | {f"{split}.csv" for split in pack.manifest["splits"]} == set(sources)
    assert all(sources[file.name].sha256 == file.sha256 for file in dataset.files)
    for split in pack.manifest["splits"]:
        part, records = pack.split(split), list(described.records(split))
        read = {key: [record[f"{split}/{key}"] for record in records] for key in ("index", "label", "class", "sha256")}
        assert read["index"] == list(range(len(part)))
        assert read["label"] == part.labels.tolist()
        assert [_text(value) for value in read["class"]] == [pack.classes[label] for label in part.labels]
        assert [_text(value) for value in read["sha256"]] == [bytes(digest).hex() for digest in part.attributes["sha256"]]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def test_a_synthetic_set_says_so(packs, tmp_path: Path):
    write_croissant(packs["tiny-imagenet-r-synthetic"], load.datasets()["tiny-imagenet-r-synthetic"], tmp_path)
    metadata = json.loads((tmp_path / "croissant.json").read_text())
    assert "never to be reported as a natural one" in metadata["description"]
    names = [field["name"] for field in metadata["recordSet"][0]["field"]]
    assert names == ["index", "label", "class", "name", "rendition", "sha256"]


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [('"column": "label"', '"column": "lable"', r"Read\(val\.csv\)"), ('"cr:RecordSet"', '"cr:Record"', "should have an attribute")],
)
def test_what_the_metadata_get_wrong_is_noticed(packs, tmp_path: Path, right: str, wrong: str, message: str):
    """The library does look."""
    import mlcroissant

    write_croissant(packs["digits"], load.datasets()["digits"], tmp_path)
    path = tmp_path / "croissant.json"
    path.write_text(path.read_text().replace(right, wrong))
    with pytest.raises(Exception, match=message):
        list(mlcroissant.Dataset(jsonld=path).records("val"))


def test_no_name_of_a_stranger_is_a_formula_in_the_table(tmp_path: Path):
    names = [b"=cmd|' /C calc'!A0", b"+1", b"-2", b"@SUM(A1)", b"a=b", b"\xff"]
    images = SplitSource(lambda start: [np.zeros((2, 2, 3), np.uint8)] * (6 - start), [0, 1, 0, 1, 0, 1], {"name": names})
    write_pack(tmp_path / "key", "set", 2, Content(("=HYPERLINK(1)", "b"), {"val": images}, {}))
    write_croissant(open_pack(tmp_path / "key"), load.datasets()["digits"], tmp_path / "described")
    rows = list(csv.DictReader((tmp_path / "described/val.csv").open()))
    assert [row["name"] for row in rows] == ["'=cmd|' /C calc'!A0", "'+1", "'-2", "'@SUM(A1)", "a=b", "\ufffd"]
    assert [row["class"] for row in rows[:2]] == ["'=HYPERLINK(1)", "b"]


TITLE = "A set [/bold] of [red]images\x1b[2J"


def listed(tmp_path: Path, redirection: str = "") -> subprocess.CompletedProcess[str]:
    (tmp_path / "config").mkdir()
    entry = {"title": TITLE, "layout": "image_folder", "classes": 2, "licence": "[/] none", "files": []}
    (tmp_path / "config/datasets.yaml").write_text(json.dumps({"set": entry}))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", f"{sys.executable} -m m2mkd data list {redirection}"]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_titles_with_brackets_are_listed_as_they_are(tmp_path: Path):
    done = listed(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"A set [/bold] of [red]images\x1b[2J" in done.stdout and "[/] none" in done.stdout


def test_a_list_without_anywhere_to_print_it(tmp_path: Path):
    done = listed(tmp_path, ">&-")
    assert (done.returncode, done.stderr) == (0, "")
