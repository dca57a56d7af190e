"""The workflow on a real Slurm of one node, against the same workflow without one."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.workflow.conftest import Project, prepared
from tests.workflow.slurm import Slurm, missing
from tests.workflow.studies import change_epochs, held_gpus, tables, weights

HERE = [
    # Without accounting, and on a file system that shows every file at once.
    "--slurm-no-account",
    "--slurm-status-command",
    "squeue",
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--seconds-between-status-checks",
    "2",
]
"""What tells Snakemake of this cluster."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """One node that is told to have four cores, so that some jobs compute while others start, and four GPUs."""
    if missing():
        message = f"{', '.join(missing())} not there; install Debian's slurm-wlm and munge"
        if os.environ.get("M2MKD_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)
    with Slurm(cpus=4, gpus=4) as cluster:
        yield cluster


def submit(project: Project, slurm: Slurm, log: Path) -> subprocess.Popen[str]:
    """Start the workflow on the cluster."""
    command = ["snakemake", "--profile", "profiles/slurm", *HERE]
    with log.open("w") as output:
        return subprocess.Popen(
            command, cwd=project.root, env=slurm.within(project.environment), stdout=output, stderr=subprocess.STDOUT, text=True
        )


def running(slurm: Slurm, rule: str) -> dict[str, str]:
    """Slurm's ids of running jobs of a rule, by key."""
    shown = slurm.ask("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").splitlines()
    found = (re.fullmatch(rf"(\d+) rule_{rule}(?:_wildcards)?_(\w+)", line.strip()) for line in shown)
    return {match[2]: match[1] for match in found if match}


def cancel_while_training(project: Project, slurm: Slurm, process: subprocess.Popen[str], rule: str) -> tuple[str, str]:
    """Cancel the first job of a rule that has begun to train; its key and Slurm's id."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        assert process.poll() is None, "the workflow ended before a job could be cancelled"
        for key, job in running(slurm, rule).items():
            if (project.root / "results" / project.scale / "work" / rule / key / "metrics.jsonl").is_file():
                slurm.ask("scancel", job)
                return key, job
        time.sleep(0.1)
    pytest.fail(f"no job of {rule} began to train")


def check(project: Project, expected: Project, slurm: Slurm, log: Path, rule: str, patience: float, apart: Collection[str] = ()) -> None:
    """Run on the cluster, cancel one job, edit the configuration, and compare with what a plain run made, some tables apart."""
    process = submit(project, slurm, log)
    try:
        key, job = cancel_while_training(project, slurm, process, rule)
        change_epochs(project)  # every job's own Snakemake reads the plan, and not this
        assert process.wait(timeout=patience) == 0, log.read_text()[-6000:] + project.failures()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    names = f"rule_{rule}_wildcards_{key}", f"rule_{rule}_{key}"
    attempts = {each["JobId"]: each["JobState"] for each in slurm.jobs() if each.get("Comment") in names}
    assert attempts.pop(job) == "CANCELLED"
    assert list(attempts.values()) == ["COMPLETED"]
    assert {device for device, _, _ in held_gpus(project, rule)} <= {str(number) for number in range(slurm.gpus)}
    made, wanted = tables(project), tables(expected)
    assert made.keys() == wanted.keys() and {name for name in wanted if made[name] != wanted[name]} <= set(apart)
    assert weights(project) == weights(expected)


def test_a_cancelled_job_is_retried_to_the_same_tables(finished, project, slurm, tmp_path):
    # Modules of one student share a job, which changes no result, and saves starts.
    project.set_config(scale="smoke", overrides={"modules_per_job": 4})
    check(project, finished, slurm, tmp_path / "log", "incubate_module", 900)


@pytest.mark.slow
def test_the_small_study_on_the_cluster(undisturbed, slurm, tmp_path):
    project = prepared(tmp_path / "cluster")
    scale = project.root / "config" / "scales" / f"{project.scale}.yaml"
    before = scale.read_bytes()
    # What it would cost to judge the claims that this study does not judge is that of the file as it is now.
    (receipt,) = [name for name in tables(undisturbed) if name.startswith("study-")]
    check(project, undisturbed, slurm, tmp_path / "log", "train_student", 3000, apart=("claims.csv", "claims.json", receipt))
    scale.write_bytes(before)
    project.run("m2mkd", "compile")
    assert tables(project) == tables(undisturbed)
