"""A finished study that was brought into an MLflow store."""

import shutil
from pathlib import Path

import pytest

from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.tracking.mlflow_export import sync
from tests.fabricated import finish, plan

EXPERIMENTS = ["teacher_deit_large", "vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free", "nac_tiny_imagenet_ring_of_cliques"]


def make(root: Path):
    study = plan(root, "smoke", EXPERIMENTS, seeds=2)
    finish(study)
    compile_tables(Results.read(study))
    return study


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A synchronised study, made once."""
    root = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        study = make(root)
        sync(Results.read(study))
    return study, root


@pytest.fixture
def synced(template, tmp_path, monkeypatch):
    """A copy of it, elsewhere, in the working directory."""
    study, root = template
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return study
