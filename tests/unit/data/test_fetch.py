"""Fetching from a server on loopback that drops connections, changes its file, refuses ranges, and lies."""

import ast
import hashlib
import os
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.data.fetch import RAW, check, fetch
from m2mkd.errors import InputError
from tests.conftest import ROOT
from tests.loopback import Server, serving

pytestmark = pytest.mark.usefixtures("project")

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"set.zip": CONTENT}) as running:
        yield running


def dataset(url: str | None, **fields) -> DatasetConfig:
    source = SourceFile(name="set.zip", url=url, **{"sha256": SHA256} | fields)
    return DatasetConfig(title="A set", layout="image_folder", classes=2, licence="none", files=(source,), obtain="ask its makers")


def test_a_dropped_connection_is_taken_up_where_it_broke(server: Server):
    server.drops["set.zip"] = 200_000
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT
    (_, first), (_, second) = server.asked
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 200_000


def test_an_interrupted_process_goes_on(server: Server, monkeypatch):
    server.drops["set.zip"] = 200_000
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert not (RAW / "set.zip").exists()
    there = (RAW / ".set.zip.part").stat().st_size
    assert there > 0
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, f"bytes={there}-"]


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_process_that_is_killed_while_it_checks_the_whole_file_does_not_fetch_it_again(server: Server, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("m2mkd.data.fetch.check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, f"bytes={len(CONTENT)}-"], "nothing was sent twice"
    assert sorted(path.name for path in RAW.iterdir()) == [".set.zip.digest", "set.zip"]


def test_a_weak_mark_of_a_version_leaves_its_time(server: Server):
    server.etag, server.drops["set.zip"] = 'W/"1"', 200_000
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT
    assert server.continued == 1


def test_a_part_of_another_version_is_not_continued(server: Server):
    (RAW).mkdir(parents=True)
    (RAW / ".set.zip.part").write_bytes(b"old" * 1000)
    (RAW / ".set.zip.part.etag").write_text('"0"')
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_a_part_never_has_the_mark_of_another_version(server: Server, monkeypatch):
    (RAW).mkdir(parents=True)
    (RAW / ".set.zip.part").write_bytes(b"old" * 1000)
    (RAW / ".set.zip.part.etag").write_text('"0"')
    unpatched = Path.open

    def killed(path, mode="r", *rest, **options):
        if mode == "wb" and path.name == ".set.zip.part":
            raise KeyboardInterrupt
        return unpatched(path, mode, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch("set", dataset(f"{server.url}/set.zip", sha256=None), pause=0.01)
    fetch("set", dataset(f"{server.url}/set.zip", sha256=None), pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_of_it_again(server: Server):
    server.ranges, server.drops = False, {"set.zip": 100_000}
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_what_is_there_is_not_fetched_again(server: Server):
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_leaves_nothing(server: Server, kind: str):
    wrong = {"sha256": None, kind: "0" * (64 if kind == "sha256" else 32)}
    with pytest.raises(InputError, match=f"{kind} is .* expects 000000000000"):
        fetch("set", dataset(f"{server.url}/set.zip", **wrong), pause=0.01)
    assert not (RAW / "set.zip").exists()
    assert not (RAW / ".set.zip.part").exists()


def test_a_file_that_was_changed_later_is_found(server: Server):
    fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    (RAW / "set.zip").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(InputError, match="remove the file and fetch it again"):
        fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert len(server.asked) == 1, "never a silent new download"


def test_bits_that_flip_on_the_disk_are_found_by_reading_afresh(server: Server):
    source = dataset(f"{server.url}/set.zip")
    fetch("set", source, pause=0.01)
    state = (RAW / "set.zip").stat()
    with (RAW / "set.zip").open("rb+") as file:
        file.write(b"!")
    os.utime(RAW / "set.zip", ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(InputError, match="sha256 is"):
        check(RAW / "set.zip", source.files[0], "set", afresh=True)


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (429, 5), (503, 5)])
def test_a_refusal_is_told(server: Server, status: int, asked: int):
    server.status = status
    with pytest.raises(InputError, match=f"the server answers {status}|{status} (Server|Client) Error"):
        fetch("set", dataset(f"{server.url}/set.zip"), pause=0.001)
    assert len(server.asked) == asked, "what a new attempt cannot fix is not tried again"


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(server: Server, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    with pytest.raises(InputError, match=r"set\.zip: 300.0 kB are still to come, but only 200.0 kB are free in data/raw; free space there"):
        fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)
    assert not list(RAW.glob("*.part"))


def test_no_server(monkeypatch):
    with pytest.raises(InputError, match="ConnectionError, 5 times; 0 bytes are kept"):
        fetch("set", dataset("http://127.0.0.1:9/set.zip"), pause=0.001)


def test_a_set_without_an_address_says_how_to_get_it():
    with pytest.raises(InputError, match=r"set: ask its makers; put set.zip there by hand: data/raw/set.zip"):
        fetch("set", dataset(None))


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_a_folder_in_place_of_the_server(tmp_path: Path, form: str):
    (tmp_path / "with spaces").mkdir()
    (tmp_path / "with spaces/set.zip").write_bytes(CONTENT)
    fetch("set", dataset(None), form.format(tmp_path / "with spaces"))
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_a_percent_sign_in_the_name_of_a_folder_stands_for_itself(tmp_path: Path):
    (tmp_path / "my%20sets").mkdir()
    (tmp_path / "my%20sets/set.zip").write_bytes(CONTENT)
    fetch("set", dataset(None), str(tmp_path / "my%20sets"))
    assert (RAW / "set.zip").read_bytes() == CONTENT
    (RAW / "set.zip").unlink()
    fetch("set", dataset(None), f"file:{tmp_path}/my%2520sets")
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_another_server_in_place_of_the_registered_one(server: Server):
    fetch("set", dataset("http://127.0.0.1:9/set.zip"), server.url, pause=0.01)
    assert (RAW / "set.zip").read_bytes() == CONTENT


def test_what_the_room_imports_is_declared():
    """In a core install `m2mkd data fetch` works; only the digits and Parquet need the extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split("[<>=]", entry)[0] for entry in project["dependencies"]} | {"PIL", "rich"}
    extra = {"sklearn", "pyarrow"}
    for path in (ROOT / "m2mkd/data").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            others = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"m2mkd"} - core
            assert others <= extra, path
    assert all(
        any(entry.startswith(name) for entry in project["optional-dependencies"]["pipeline"]) for name in ("scikit-learn", "pyarrow")
    )


def test_a_folder_in_place_of_the_file(server: Server):
    (RAW / "set.zip").mkdir(parents=True)
    with pytest.raises(InputError, match=r"data/raw/set\.zip: is a folder; replace it by the archive itself"):
        fetch("set", dataset(f"{server.url}/set.zip"), pause=0.01)


def test_a_folder_without_the_file(tmp_path: Path):
    with pytest.raises(InputError, match=r"is not a file; give the place of set.zip with --from"):
        fetch("set", dataset(None), str(tmp_path))
