"""A PATH on which a test puts what it wants."""

import shutil

import pytest


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script on the PATH, which then has nothing else but what a shell needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "touch", "sed"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, body: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    return put
