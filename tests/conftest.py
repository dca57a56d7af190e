"""Where the tests find the recordings and the data packs, and how strict an absence is."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

import m2mkd  # noqa: F401  before timm, for the torchvision hook

ROOT = Path(__file__).parent.parent


def _folder(variable: str, default: str) -> Path:
    """The folder that ``variable`` names, relative to the repository; skips where it is absent, fails where everything is required."""
    path = (ROOT / os.environ.get(variable, default)).resolve()
    if not path.is_dir():
        message = f"{path} is absent; set {variable} to the folder"
        if os.environ.get("M2MKD_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Recordings of the released models."""
    return _folder("M2MKD_FIXTURES", "../shared/fixtures")


@pytest.fixture(scope="session")
def packs_dir() -> Path:
    """Packs of real images."""
    return _folder("M2MKD_DATA_PACKS", "../shared/data")


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration files are found from the root of the project."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a test lets a command set for this process, as the address of the tracking server, is gone after it."""
    with patch.dict(os.environ):
        yield


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``m2mkd`` with arguments in this process: exit code, standard output and error."""
    from m2mkd.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run
