"""A project with a finished study and its crate."""

import shutil
from pathlib import Path

import pytest

from m2mkd.results.crate.contents import SOURCES
from m2mkd.results.crate.write import write_crate
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.study import Study
from m2mkd.training.job import provenance
from tests.fabricated import ROOT, finish, plan

IMAGE = {"image": "/somewhere/m2mkd-cpu.sif", "digest": "sha256:" + "3" * 64, "revision": "abc", "lock": "1" * 64, "sbom": "2" * 64}


@pytest.fixture(scope="session")
def crate_project(tmp_path_factory) -> tuple[Path, Study]:
    """A project with a finished study; tests that change something work in a copy."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "smoke", ["vmoe_base/end_to_end", "vmoe_base/m2mkd"], seeds=3)
        for name in set(SOURCES) - {"config", "results/published"}:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, name)
        finish(study, computed=provenance() | {"container": IMAGE})
        compile_tables(Results.read(study))
        write_report(Results.read(study))
        write_crate(Results.read(study))
    return root, study


@pytest.fixture
def crate_study(crate_project, tmp_path, monkeypatch) -> Study:
    """The study in a copy of the project, which is the working directory."""
    root, study = crate_project
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return study


@pytest.fixture
def crate(crate_study) -> Path:
    """Its crate."""
    return Path(crate_study.root) / "crate"
