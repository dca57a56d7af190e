"""``make clean`` and ``make distclean``: what they delete, and what only after a yes."""

import shutil
import subprocess

import pytest

from tests.conftest import ROOT

TRAINED = ("results/small/runs/run.json", "results/smoke/work/checkpoint.pt", "data/packed/digits/manifest.json", ".venv/bin/python")
CACHED = ("results/small/logs/train.log", ".snakemake/log/one.log", "build/standin/env.sh", "m2mkd/__pycache__/a.pyc")
NEVER = ("results/published/m2mkd.csv", "data/raw/images.tar", "results/small/tables/claims.json", ".snakemake/storage/s3/run.json")


@pytest.fixture
def make(tmp_path):
    """Runs make in a folder that has a file of each kind."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*TRAINED, *CACHED, *NEVER):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def run(*arguments: str) -> tuple[int, str, set[str]]:
        done = subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        left = {name for name in (*TRAINED, *CACHED, *NEVER) if (tmp_path / name).exists()}
        return done.returncode, done.stdout, left

    return run


def test_clean_deletes_nothing_that_was_trained(make):
    code, _, left = make("clean")
    assert code == 0 and left == {*TRAINED, *NEVER}


def test_distclean_deletes_nothing_unless_it_is_told_to(make):
    code, said, left = make("distclean")
    assert code and left == {*TRAINED, *CACHED, *NEVER}
    assert "results/small/runs" in said and "'make distclean CONFIRM=yes' deletes it" in said


def test_distclean_deletes_runs_data_sets_and_the_environment(make):
    code, _, left = make("distclean", "CONFIRM=yes")
    assert code == 0 and left == {*NEVER}
