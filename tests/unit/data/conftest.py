"""An empty project, in which data sets are fetched and prepared."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from m2mkd.config import load


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    load.datasets.cache_clear()


@pytest.fixture
def raw(project: Path) -> Path:
    """Its folder for what was fetched."""
    folder = project / "data/raw"
    folder.mkdir(parents=True)
    return folder
