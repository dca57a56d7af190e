"""Notes that programs keep for themselves may have become anything: each is then as good as none."""

import json
import socket
from pathlib import Path

import pytest

from m2mkd import processes, workflows
from m2mkd.config import imports
from m2mkd.files import sha256
from m2mkd.study import state

ODD = [b"", b"7", b"[]", b'"x"', b"null", b"[" * 100_000, b"\xff", b'{"study": [}', b"{}"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("content", [*ODD, b'{"weights": 7}', b'{"weights": [1, 2, 3]}', b'{"weights": {}}', b'{"weights": null}'])
def test_digests_of_imported_files(content: bytes):
    Path("weights").write_bytes(b"weights")
    imports.CACHE.parent.mkdir()
    imports.CACHE.write_bytes(content)
    assert [imports.imported_digest("weights", "file") for _ in range(2)] == [sha256(Path("weights"))] * 2


def test_a_known_digest_that_is_none_is_not_believed():
    Path("weights").write_bytes(b"weights")
    facts = Path("weights").stat()
    imports.CACHE.parent.mkdir()
    imports.CACHE.write_text(json.dumps({"weights": [facts.st_size, facts.st_mtime_ns, "../x"]}))
    assert imports.imported_digest("weights", "file") == sha256(Path("weights"))


HERE = socket.gethostname()


@pytest.mark.parametrize(
    "content",
    [*ODD, *(json.dumps({"host": HERE, "self": owner}).encode() for owner in (7, [], {}, {"pid": "x"}, {"pid": 2**80, "created": 1}))],
)
def test_who_holds_a_lock(content: bytes):
    Path(".work.owner").write_bytes(content)
    said: list[str] = []
    processes._end_or_announce(Path(".work.owner"), said.append)
    assert len(said) == 1 and "another process" in said[0]


@pytest.mark.parametrize("content", [*ODD, b'{"host": "elsewhere", "pid": "x"}', b'{"host": "elsewhere", "pid": Infinity}'])
def test_workflows_of_other_machines(content: bytes):
    workflows.RECORDS.mkdir(parents=True)
    (workflows.RECORDS / "a.json").write_bytes(content)
    assert not [found for found in workflows.working() if "elsewhere" in found]


@pytest.mark.parametrize("content", ODD)
def test_the_study_that_a_plan_is_of(content: bytes):
    Path("current.json").write_bytes(content)
    assert state._key_in(Path("current.json")) == ""
    Path("current.json").unlink()
    assert state._key_in(Path("current.json")) == ""
