"""No image of a pack is in the repository, in its history, in a wheel or in what an image is built from."""

import hashlib
import runpy
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2mkd.containers.source import project_files
from tests.conftest import ROOT

BINARY = {"docs/mlflow-compare.png", "docs/mlflow-row.png", "docs/mlflow-runs.png", "docs/small-study.png"}
"""All files of the repository that are no text."""


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is an archive of the project, without a repository")


def contents(packs: Path) -> Iterator[bytes]:
    """The packs themselves, and every file in them."""
    for path in sorted(packs.iterdir()):
        if path.suffix == ".zip":
            yield path.read_bytes()
            with zipfile.ZipFile(path) as archive:
                yield from (archive.read(name) for name in archive.namelist() if not name.endswith("/"))
        elif path.suffix == ".gz":
            yield path.read_bytes()
            with tarfile.open(path) as archive:
                yield from (file.read() for entry in archive if entry.size and (file := archive.extractfile(entry)))


@pytest.fixture(scope="module")
def blobs(packs_dir: Path) -> set[str]:
    """What git would name each of them."""
    return {hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() for content in contents(packs_dir)}


@needs_git
def test_no_file_of_a_pack_is_in_the_repository_or_its_history(blobs: set[str]):
    assert len(blobs) > 17_000
    known = {line.split()[0] for line in git("rev-list", "--objects", "--all")} | {line.split()[1] for line in git("ls-files", "-s")}
    assert len(known) > 500
    assert not blobs & known


def is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def test_nothing_in_the_repository_could_hold_one():
    """Not in another form either: what is no text is known by name."""
    assert {name for name in project_files(ROOT) if (ROOT / name).is_file() and not is_text((ROOT / name).read_bytes())} == BINARY


def test_none_is_in_a_wheel(tmp_path: Path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "m2mkd/data/pack.py" in names
        assert all(is_text(archive.read(name)) for name in names)


def test_none_is_in_what_an_image_is_built_from(tmp_path: Path):
    runpy.run_path(str(ROOT / "containers/build.py"))["lay_out"](tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert all(is_text(path.read_bytes()) for path in files)
