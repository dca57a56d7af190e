"""What is no file is refused before anything waits for its end."""

from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.files import require_file
from tests.special_files import not_a_file


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str):
    path = not_a_file(tmp_path, kind)
    with pytest.raises(InputError, match=f"x: is a {kind}; replace it by the file itself"):
        require_file(path)


def test_a_file_and_a_link_to_one_pass(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("file")
    assert require_file(tmp_path / "file").st_size == require_file(tmp_path / "link").st_size == 4
    with pytest.raises(FileNotFoundError):
        require_file(tmp_path / "absent")
