"""``make reproduce`` killed in the middle, and typed again."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.workflow.conftest import ROOT, Project
from tests.workflow.studies import change_epochs, start, tables, weights

EXPERIMENTS = ["vmoe_base/end_to_end", "vmoe_base/pure_kd"]


def wait_until_training(project: Project, process: subprocess.Popen, phase: str) -> None:
    """Wait until a job of the phase has started to train."""
    deadline = time.monotonic() + 240
    while not list((project.root / "results" / project.scale / "work" / phase).glob("[0-9a-f]*/metrics.jsonl")):
        assert process.poll() is None, "make ended before it could be killed"
        assert time.monotonic() < deadline, f"no job of {phase} started"
        time.sleep(0.05)


def test_configuration_that_is_edited_while_jobs_wait_changes_nothing_in_them(finished, copy_of, project):
    expected = copy_of(finished)
    expected.set_config(experiments=EXPERIMENTS)
    expected.snakemake()

    project.set_config(scale="smoke", experiments=EXPERIMENTS)
    process = subprocess.Popen(
        ["snakemake", "--cores", "all"], cwd=project.root, env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_until_training(project, process, "pretrain_meta")
    change_epochs(project)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed.decode()[-3000:]
    assert tables(project) == tables(expected)
    mine, theirs = weights(project), weights(expected)
    assert mine == {name: theirs[name] for name in mine} != {}
    # The next call plans anew, and says what differs.
    said = project.snakemake("--dry-run", "--quiet", "all").stderr
    assert re.search(r"m2mkd: since the last plan \d+ of \d+ runs are new.*recipe\.epochs 2 -> 3", said), said


@pytest.mark.parametrize("victim", ["make alone", "the whole process group"])
def test_typing_it_again_gives_the_same_results(finished, copy_of, project, tmp_path, victim):
    expected = copy_of(finished)
    expected.set_config(experiments=EXPERIMENTS)
    expected.snakemake()

    project.set_config(scale="smoke", experiments=EXPERIMENTS)
    (project.root / ".venv").symlink_to(ROOT / ".venv")
    process = start(project, tmp_path / "first.log")
    wait_until_training(project, process, "incubate_module")
    if victim == "make alone":
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    again = start(project, tmp_path / "again.log")
    assert again.wait(timeout=400) == 0, (tmp_path / "again.log").read_text()[-3000:]
    said = (tmp_path / "again.log").read_text()
    assert ("left over from an interrupted command" in said) == (victim == "make alone")
    assert re.search(r"^\d+ of \d+ runs, about .* left: \w.* \(.*loss ", said, flags=re.M)
    assert "tables   results/smoke/tables/results.md" in said
    assert tables(project) == tables(expected)
    mine, theirs = weights(project), weights(expected)
    assert mine
    assert mine == {name: theirs[name] for name in mine}
    assert start(project, tmp_path / "third.log").wait(timeout=60) == 0


def jobs_of(process: subprocess.Popen) -> dict[str, psutil.Process]:
    """Jobs that compute a run now, by the run."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if len(words) > 3 and Path(words[0]).name.startswith("python") and Path(words[1]).name == "m2mkd" and words[2] == "run":
            found[words[3]] = child
    return found


@pytest.mark.slow
def test_five_kills_of_a_study_cost_no_bit(finished, project, tmp_path):
    """Jobs are killed, or told to stop, and Snakemake gives them again; then all that runs is killed, and the command is typed again."""
    project.set_config(scale="smoke")
    (project.root / ".venv").symlink_to(ROOT / ".venv")
    process, moments, ended = start(project, tmp_path / "first.log"), random.Random(0), set()
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1):
        time.sleep(moments.uniform(1, 4))
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "first.log").read_text()[-3000:]
            running = {run: job for run, job in jobs_of(process).items() if run not in ended}
            if running:
                run = moments.choice(sorted(running))
                time.sleep(moments.uniform(0, 3))
                try:
                    running[run].send_signal(number)
                    break
                except psutil.NoSuchProcess:
                    pass  # it was done before; another
            time.sleep(0.05)
        ended.add(run)
    time.sleep(moments.uniform(1, 4))
    assert process.poll() is None, (tmp_path / "first.log").read_text()[-3000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(project, tmp_path / "again.log").wait(timeout=1200) == 0, (tmp_path / "again.log").read_text()[-3000:]
    assert tables(project) == tables(finished)
    assert weights(project) == weights(finished)
