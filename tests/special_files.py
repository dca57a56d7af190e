"""What stands in the place of a file, and may never come to an end."""

import os
import socket
from pathlib import Path

import pytest


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
