"""The small study, undisturbed and with many kills: `make acceptance`."""

import json
import os
import random
import signal
import time

import pytest

from tests.workflow.conftest import prepared
from tests.workflow.images import on_the_host
from tests.workflow.studies import start, tables, weights

KILLS = 5


@pytest.mark.slow
def test_the_study_learns_and_survives_kills(undisturbed, tmp_path):
    scale = undisturbed.scale
    metrics = json.loads((undisturbed.root / "results" / scale / "metrics.json").read_text())
    scratch = {name: variants["end_to_end"]["corrected"]["iid_top1"] for name, variants in metrics.items() if "end_to_end" in variants}
    if scale == "small":
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
    assert tables(project) == tables(undisturbed)
    assert weights(project) == weights(undisturbed)


@pytest.mark.slow
@pytest.mark.container
def test_the_study_in_the_image_is_that_of_the_host(undisturbed, sif, tmp_path):
    project = prepared(tmp_path / "inside")
    project.set_config(container=str(sif))
    project.snakemake("--use-singularity")
    assert on_the_host(project, sif) == []
    assert tables(project) == tables(undisturbed)
    assert weights(project) == weights(undisturbed)
