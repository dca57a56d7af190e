"""The small study, undisturbed and with many kills: `make acceptance`."""

import json
import os
import random
import signal
import time

import pytest

from tests.conftest import ROOT
from tests.workflow.conftest import Project, copy_project
from tests.workflow.images import on_the_host
from tests.workflow.test_interrupted import start, weights
from tests.workflow.test_smoke import tables

SCALE = os.environ.get("M2MKD_ACCEPTANCE_SCALE", "small")
KILLS = 5


def prepared(root) -> Project:
    """A copy of the project, ready for ``make reproduce``."""
    root.mkdir()
    copy_project(root)
    project = Project(root, SCALE)
    project.set_config(scale=SCALE)
    (root / ".venv").symlink_to(ROOT / ".venv")
    return project


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Project:
    """The study, computed by one ``make reproduce``."""
    folder = tmp_path_factory.mktemp("acceptance")
    project = prepared(folder / "undisturbed")
    assert start(project, folder / "log").wait(timeout=1800) == 0, (folder / "log").read_text()[-3000:]
    return project


@pytest.mark.slow
def test_the_study_learns_and_survives_kills(undisturbed, tmp_path):
    expected = undisturbed
    metrics = json.loads((expected.root / "results" / SCALE / "metrics.json").read_text())
    scratch = {name: variants["end_to_end"]["corrected"]["iid_top1"] for name, variants in metrics.items() if "end_to_end" in variants}
    if SCALE == "small":
        assert len(scratch) == 5
        assert {name: value for name, value in scratch.items() if not 0.70 <= value <= 0.96} == {}

    project = prepared(tmp_path / "disturbed")
    moments = random.Random(1)
    for _ in range(KILLS):
        process = start(project, tmp_path / "log")
        time.sleep(moments.uniform(8, 60))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(project, tmp_path / "log").wait(timeout=1800) == 0, (tmp_path / "log").read_text()[-3000:]
    assert tables(project) == tables(expected)
    assert weights(project) == weights(expected)


@pytest.mark.slow
@pytest.mark.container
def test_the_study_in_the_image_is_that_of_the_host(undisturbed, sif, tmp_path):
    project = prepared(tmp_path / "inside")
    project.set_config(scale=SCALE, container=str(sif))
    project.snakemake("--use-singularity")
    assert on_the_host(project, sif) == []
    assert tables(project) == tables(undisturbed)
    assert weights(project) == weights(undisturbed)
