"""A project with finished runs, for rooms that a person uses on them."""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory):
    """The folder of the project, and its study."""
    from tests.finished import make_project  # here, because most tests need none of what it imports

    root = tmp_path_factory.mktemp("project")
    return SimpleNamespace(root=root, study=make_project(root))


@pytest.fixture
def project(finished_project, monkeypatch):
    """Study of the project, whose folder is the working directory. Tests leave it as it is."""
    monkeypatch.chdir(finished_project.root)
    return finished_project.study
