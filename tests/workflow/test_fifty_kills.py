"""Fifty kills of a study wherever one hurts: nothing that was finished is computed again, and every bit is the same."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.workflow.conftest import ROOT, Project
from tests.workflow.studies import start, tables, weights

KILLS = {"everything": 14, "snakemake": 10, "job": 8, "work folder": 6, "compile": 4, "track": 4, "dvc": 4}
"""How often each is killed: all at once; Snakemake alone, whose jobs go on; a job, then the others; all when a run was just published and
its work folder is removed; all while tables are compiled or MLflow is written; and ``dvc commit``."""
COMMANDS = {"snakemake": ("run",), "job": ("run",), "compile": ("compile",), "track": ("track", "sync")}
"""What has to work before the kill."""
ALONE = {"snakemake": ("snakemake",), "job": ("m2mkd", "run")}
"""What is killed by itself."""
PAUSES = {
    "everything": (2, 25),
    "snakemake": (0, 8),
    "job": (0, 4),
    "work folder": (0, 0),
    "compile": (0, 3),
    "track": (0, 3),
    "dvc": (0.3, 4),
}
"""Seconds between the moment and the kill, at random."""
PATIENCE = 300
"""Seconds."""


def commands(project: Project) -> dict[int, list[str]]:
    """Words of every command that works in the project now, by its process."""
    found = {}
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == project.root:
                found[process.pid] = process.cmdline()
        except psutil.Error:
            continue
    return found


def running(project: Project, program: str, *words: str) -> list[int]:
    """Processes of one of our programs that was given these words first."""
    found = []
    for pid, line in commands(project).items():
        if len(line) > 1 and Path(line[1]).name == program and tuple(line[2 : 2 + len(words)]) == words:
            found.append(pid)
    return sorted(found)


def being_removed(project: Project) -> bool:
    """Whether a run is published, and its work folder is still there."""
    results = project.root / "results" / project.scale
    return any((results / "work" / path.parent.parent.name / path.parent.name).is_dir() for path in results.glob("runs/*/*/run.json"))


def finished_runs(project: Project) -> dict[str, bytes]:
    """Records of all runs that are there; a record says when its run was computed."""
    runs = project.root / "results" / project.scale / "runs"
    return {str(path.relative_to(runs)): path.read_bytes() for path in runs.glob("*/*/run.json")}


def until(condition: Callable[[], object], process: subprocess.Popen, pause: float = 0.02) -> bool:
    """Wait for something; false where the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        if process.poll() is not None:
            return False
        time.sleep(pause)
    return True


def dvc_commit(project: Project) -> subprocess.Popen:
    options = {"cwd": project.root, "env": project.environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(["dvc", "commit", "--force"], start_new_session=True, **options)


def undo_the_end(project: Project) -> None:
    """Remove what is made from runs alone, so that there is something to be killed in after all runs are done."""
    results = project.root / "results"
    shutil.rmtree(results / project.scale / "tables", ignore_errors=True)
    (results / "mlflow.db").unlink(missing_ok=True)


def moment(project: Project, victim: str, moments: random.Random, process: subprocess.Popen) -> bool:
    """Wait until a kill hits what it is to hit; false where the work came to its end before."""
    came = True
    if victim in COMMANDS:
        came = until(lambda: running(project, "m2mkd", *COMMANDS[victim]), process)
    elif victim == "work folder":
        came = until(lambda: being_removed(project), process, pause=0)
    time.sleep(moments.uniform(*PAUSES[victim]))
    return came and process.poll() is None


def strike(project: Project, victim: str, moments: random.Random, log: Path) -> bool:
    """Start the work, and kill the victim; false where the work came to its end before."""
    process = dvc_commit(project) if victim == "dvc" else start(project, log)
    hit = moment(project, victim, moments, process)
    if hit and victim in ALONE:
        for pid in running(project, *ALONE[victim])[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim == "snakemake":  # whose jobs go on without it
            process.wait()
            return True
        time.sleep(moments.uniform(0, 3))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return hit


@pytest.mark.slow
def test_nothing_finished_is_computed_again_and_every_bit_is_the_same(finished, project, tmp_path_factory):
    project.set_config(scale="smoke")
    (project.root / ".venv").symlink_to(ROOT / ".venv")
    log = tmp_path_factory.mktemp("logs") / "log"
    moments, wanted = random.Random(17), [name for name, count in KILLS.items() for _ in range(count)]
    of_runs = [name for name in wanted if name not in ("compile", "track", "dvc")]
    moments.shuffle(of_runs)
    queue = [*of_runs, *(name for name in wanted if name in ("compile", "track", "dvc"))]
    seen: dict[str, bytes] = {}
    struck = 0
    for victim in queue:
        if victim in ("compile", "track"):
            undo_the_end(project)
        hit = strike(project, victim, moments, log)
        if not hit and victim not in ("compile", "track", "dvc"):
            # Every run is there already: the end of the work has to do for those that are left.
            undo_the_end(project)
            hit = strike(project, "everything", moments, log)
        struck += hit
        now = finished_runs(project)
        assert {name for name in seen if now.get(name) != seen[name]} == set(), f"after {struck} kills, the last of {victim}"
        seen = now
    assert struck >= 0.8 * len(queue), "most of them have to hit something"
    assert start(project, log).wait(timeout=1800) == 0, log.read_text()[-3000:]
    after = finished_runs(project)
    assert {name for name in seen if after.get(name) != seen[name]} == set()
    assert tables(project) == tables(finished)
    assert weights(project) == weights(finished)
    project.run("dvc", "commit", "--force")
    assert project.jobs() == []
