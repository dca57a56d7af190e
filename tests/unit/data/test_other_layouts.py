"""A layout of another package: recognised, read, keyed by its code, and as strict as ours."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.data.pack import open_pack
from m2mkd.study.data import resolve_data
from tests.packages import installed
from tests.unit.data.own_images import UNDIVIDED, add, as_folder, refused


@pytest.fixture(scope="module")
def installed_example(tmp_path_factory):
    """Folder that pip has installed the example in."""
    return installed("m2mkd-lines-layout", tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def project(tmp_path, monkeypatch, installed_example):
    site = tmp_path / "site"
    shutil.copytree(installed_example, site)
    monkeypatch.syspath_prepend(site)
    # Images are read in other processes.
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/datasets.yaml").write_text("{}")
    load.datasets.cache_clear()
    yield tmp_path
    load.datasets.cache_clear()
    sys.modules.pop("m2mkd_lines_layout", None)


def as_lines(folder: Path) -> Path:
    as_folder(folder, UNDIVIDED, {})
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    lines = [f"{path.relative_to(folder)} {path.parent.name}" for path in files]
    (folder / "images.lines").write_text("# path class\n" + "\n".join(lines) + "\n")
    return folder / "images.lines"


def prepared() -> dict:
    assert CliRunner().invoke(app, ["data", "prepare", "mine@16"], catch_exceptions=False).exit_code == 0
    return open_pack(Path(resolve_data("mine@16", "test")[0].folder), verify="always").manifest


def test_it_gives_the_set_that_a_folder_of_the_same_images_gives(project):
    said = add(as_lines(Path("here")), "--val-share", "0.3", "--write")
    assert ": lines\n" in said
    load.datasets.cache_clear()
    entry, manifest = yaml.safe_load(Path("config/own-datasets.yaml").read_text())["mine"], prepared()
    Path("config/own-datasets.yaml").unlink()
    Path("here/images.lines").unlink()
    shutil.rmtree("data/packed")
    load.datasets.cache_clear()
    add(Path("here"), "--val-share", "0.3", "--write")
    load.datasets.cache_clear()
    folder = yaml.safe_load(Path("config/own-datasets.yaml").read_text())["mine"]
    assert entry["content"] == folder["content"] and manifest["splits"] == prepared()["splits"]


def test_its_code_is_in_the_key_of_the_set(project, monkeypatch):
    add(as_lines(Path("here")), "--val-share", "0.3", "--write")
    load.datasets.cache_clear()
    before = resolve_data("mine@16", "test")[0].folder
    # Read once in a process, so that other code is other code in another place.
    edited = Path(shutil.move("site", "other"), "m2mkd_lines_layout.py")
    edited.write_text(edited.read_text().replace('rpartition(" ")', 'rpartition(" ")[::1]'))
    monkeypatch.syspath_prepend(edited.parent.resolve())
    sys.modules.pop("m2mkd_lines_layout")
    load.datasets.cache_clear()
    assert resolve_data("mine@16", "test")[0].folder != before


def test_what_it_refuses_is_one_line(project):
    path = as_lines(Path("here"))
    path.write_text(path.read_text() + "alone\n")
    assert "has no class; write 'PATH CLASS'" in refused("add", "mine", str(path), "--val-share", "0.3")
