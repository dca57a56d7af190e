"""Files that are there already, by hand or from another folder: none of a person is lost, and none that is no file is waited for."""

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from m2mkd.data.fetch import RAW, check, fetch
from m2mkd.errors import InputError
from tests.special_files import not_a_file
from tests.unit.data.servers import CONTENT, SHA256, answering, dataset, whole

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize("content", [CONTENT, b"another version"])
def test_a_file_that_a_person_puts_there_meanwhile_is_kept(content: bytes):
    def answer(out: BinaryIO, request: str) -> None:
        (RAW / "set.zip").write_bytes(content)
        whole()(out, request)

    with answering(answer) as url:
        if content == CONTENT:
            fetch("set", dataset(url))
        else:
            with pytest.raises(InputError, match=r"data/raw/set\.zip: sha256 is .* expects"):
                fetch("set", dataset(url))
    assert (RAW / "set.zip").read_bytes() == content


@pytest.mark.parametrize("linked", [True, False], ids=["with links", "on a file system without links"])
def test_a_file_that_appears_while_one_is_brought_from_a_folder_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool):
    (tmp_path / "from").mkdir()
    (tmp_path / "from/set.zip").write_bytes(CONTENT)
    unpatched = os.link

    def link(source: Path, target: Path) -> None:
        if target == RAW / "set.zip":
            target.write_bytes(b"by hand")
        if not linked:
            raise PermissionError(1, "Operation not permitted")
        unpatched(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InputError, match="sha256 is"):
        fetch("set", dataset(None), str(tmp_path / "from"))
    assert (RAW / "set.zip").read_bytes() == b"by hand"
    assert not (RAW / ".set.zip.local").exists()


def test_on_a_file_system_without_links_a_file_is_fetched_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def link(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "link", link)
    with answering(whole()) as url:
        fetch("set", dataset(url))
    assert sorted(path.name for path in RAW.iterdir()) == [".set.zip.digest", "set.zip"]


def test_a_file_by_hand_is_checked_and_left_alone(tmp_path: Path):
    RAW.mkdir(parents=True)
    (RAW / "set.zip").write_bytes(CONTENT)
    before = (RAW / "set.zip").stat()
    fetch("set", dataset("http://127.0.0.1:9/set.zip"))
    (RAW / "set.zip").write_bytes(b"of another version")
    for _ in range(2):
        with pytest.raises(InputError, match="remove the file and fetch it again, or correct the registry"):
            fetch("set", dataset("http://127.0.0.1:9/set.zip"))
    assert (RAW / "set.zip").read_bytes() == b"of another version"
    assert (RAW / "set.zip").stat().st_ino == before.st_ino


def test_a_link_to_what_is_not_there_is_kept():
    RAW.mkdir(parents=True)
    (RAW / "set.zip").symlink_to("/not/mounted/set.zip")
    with pytest.raises(InputError, match=r"data/raw/set\.zip: is a link to /not/mounted/set\.zip, which does not exist; restore that file"):
        fetch("set", dataset("http://127.0.0.1:9/set.zip"))
    assert (RAW / "set.zip").is_symlink()


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["set.zip", ".set.zip.part", ".set.zip.part.etag"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str, name: str):
    RAW.mkdir(parents=True)
    if name.endswith("etag"):
        (RAW / ".set.zip.part").write_bytes(b"begun")
    not_a_file(tmp_path, kind).rename(RAW / name)
    with answering(whole()) as url, pytest.raises(InputError, match=f"is a {kind}; replace it by the file itself"):
        fetch("set", dataset(url))


@pytest.mark.parametrize("note", ["", "[]", "{", "null", '{"bytes": 5}', "[" * 100_000, "\udcff", "a pipe", "without digests"])
def test_a_note_of_digests_that_is_none_is_made_anew(tmp_path: Path, note: str):
    RAW.mkdir(parents=True)
    (RAW / "set.zip").write_bytes(CONTENT)
    source, kept = dataset(None).files[0], RAW / ".set.zip.digest"
    assert check(RAW / "set.zip", source, "set") == SHA256
    right = kept.read_bytes()
    if note == "a pipe":
        kept.unlink()
        os.mkfifo(kept)
    elif note == "without digests":
        kept.write_bytes(right.replace(b"sha256", b"sha257"))
    else:
        kept.write_text(note, errors="surrogateescape")
    assert check(RAW / "set.zip", source, "set") == SHA256
    assert kept.read_bytes() == right
