"""What is no file is refused before anything waits for its end."""

import os
import socket
from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.files import require_file


def not_a_file(folder: Path, kind: str) -> Path:
    """What stands in the place of a file: a pipe, a socket, a device or a folder."""
    path = folder / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound, pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # the address of a socket is short
            bound.bind("x")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str):
    path = not_a_file(tmp_path, kind)
    with pytest.raises(InputError, match=f"x: is a {kind}; put the file itself there"):
        require_file(path)


def test_a_file_and_a_link_to_one_pass(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("file")
    assert require_file(tmp_path / "file").st_size == require_file(tmp_path / "link").st_size == 4
    with pytest.raises(FileNotFoundError):
        require_file(tmp_path / "absent")
