"""``m2mkd reproduce`` as a person sees it, in a terminal and without one, with a stand-in for Snakemake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.fabricated import finish, first, plan
from tests.terminal import Terminal, width

M2MKD = Path(sys.executable).parent / "m2mkd"
CURVE = [{"epoch": 1, "step": 8, "loss": 2.0, "val_top1": 0.712}, {"epoch": 2, "step": 16, "loss": 0.8125}]
JOB = """import signal, sys, time
from pathlib import Path
def save(*_):
    time.sleep(0.3)
    Path("saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
Path("job-runs").touch()
time.sleep(120)
"""


class Stage:
    """A folder in which ``m2mkd reproduce`` plays a study of scale smoke."""

    def __init__(self, root: Path, ready: Path):
        self.root = root
        self.study = plan(root, "smoke")
        shutil.copytree(ready, root / "ready")
        board = (ROOT / "docs/studies/small/claims.json").read_text().replace('"scale": "small"', '"scale": "smoke"')
        tables = root / "results/smoke/tables"
        tables.mkdir(parents=True)
        (tables / "claims.json").write_text(board)
        folder = root / "bin"
        folder.mkdir()
        (folder / "snakemake").write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("fake_snakemake.py").read_text())
        (folder / "snakemake").chmod(0o755)
        (folder / "m2mkd").write_text(JOB)
        self.command = [str(M2MKD), "reproduce", "--scale", "smoke"]
        self.environment = dict(os.environ) | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        for name in ("COLUMNS", "LINES"):  # test processes export them; a terminal does not
            self.environment.pop(name, None)

    def play(self, ending: str = "success") -> "Stage":
        """Write what the stand-in does."""
        running = first(self.study, "train_student").id
        scene = {
            "root": self.study.root,
            "ending": ending,
            "running": running,
            "curve": CURVE,
            "others": [run_id for run_id in self.study.runs if run_id != running],
            "failing": first(self.study, "distill_module").id,
            "job": str(self.root / "bin/m2mkd"),
        }
        (self.root / "scene.json").write_text(json.dumps(scene))
        return self

    def go(self, *steps: int) -> None:
        """Let the stand-in do its next steps."""
        for step in steps:
            (self.root / f"go-{step}").touch()

    def terminal(self, columns: int, rows: int = 24) -> Terminal:
        """Type the command in a terminal."""
        return Terminal(self.command, self.root, self.environment, columns, rows)


def judged() -> str:
    """Difference, interval and verdict of a claim on the recorded board, which the stand-in leaves behind."""
    claim = json.loads((ROOT / "docs/studies/small/claims.json").read_text())["small_vmoe_iid"]
    return f"{claim['estimate']:+.1f} [{claim['low_at_once']:+.1f}, {claim['high_at_once']:+.1f}] {claim['verdict']}"


def fits(picture: list[str], columns: int, rows: int) -> bool:
    return width(picture) <= columns and len(picture) <= rows


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Finished runs of scale smoke, by id."""
    root = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "smoke")
        finish(study)
    return root / study.root / "runs"


@pytest.fixture
def stage(tmp_path, ready, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Stage(tmp_path, ready)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_shows_phases_jobs_and_time_left_and_then_what_was_found(stage, columns):
    with stage.play().terminal(columns) as terminal:
        picture = terminal.wait_for("epoch 2/3")
        assert picture[0] == "Smoke test on handwritten digits: 0 of 36 runs done"
        assert any(line.startswith("train_student") and "0/5" in line for line in picture)
        (job,) = [line for line in picture if "epoch 2/3" in line]
        assert job.startswith("train vmoe_base/end_to_end, seed 0") and "loss 0.812" in job and "top-1 71.2 %" in job
        assert "since the last plan 3 of 36 runs are new" in "\n".join(picture)
        stage.go(1)
        picture = terminal.wait_for("1 of 36 runs done")
        assert " left, " in picture[1] and any(line.startswith("train_student") and "1/5" in line for line in picture)
        stage.go(2)
        assert "all runs are done" in terminal.wait_for("36 of 36 runs done")[1]
        stage.go(3)
        assert terminal.end() == 0
        assert all(width(picture) <= columns and len(picture) <= 24 for picture in terminal.pictures())
    said = " ".join(terminal.afterwards.split())
    assert (f"V-MoE: m2mKD - end to end, IID {judged()}" if columns == 200 else judged().split()[0]) in said
    assert "tables results/smoke/tables/results.md" in said and "report results/smoke/report.html" in said
    assert "since the last plan 3 of 36 runs are new" in said


def test_another_size_of_the_terminal_garbles_nothing(stage):
    with stage.play().terminal(200) as terminal:
        terminal.wait_for("epoch 2/3")
        for columns, rows in ((80, 24), (60, 12), (120, 40)):
            begun = len(terminal.text)
            terminal.resize(columns, rows)
            deadline = time.monotonic() + 30
            # On a busy machine the first pictures may still have the size from before.
            while not (later := terminal.pictures(begun)) or not fits(later[-1], columns, rows):
                assert time.monotonic() < deadline, "the picture does not fit"
                terminal.read(0.1)
            picture = later[-1]
            assert picture[0] == "Smoke test on handwritten digits: 0 of 36 runs done"
            assert any(line.startswith("train ") and "seed 0" in line for line in picture)
        stage.go(1, 2, 3)
        assert terminal.end() == 0


def test_a_failed_job_is_shown_with_its_log_and_the_last_line_of_it(stage):
    with stage.play("failure").terminal(120) as terminal:
        terminal.wait_for("epoch 2/3")
        stage.go(1)
        picture = "\n".join(terminal.wait_for("failed: "))
        log = f"results/smoke/logs/{first(stage.study, 'distill_module').id}.log"
        assert "distil module 0 of vmoe_base/m2mkd, seed 0" in picture and log in picture
        assert "m2mkd: data/x: absent; fetch it" in picture
        stage.go(2)
        assert terminal.end() == 2
    assert log in terminal.afterwards and "m2mkd: data/x: absent; fetch it" in terminal.afterwards
    assert "re-running the same command resumes" in terminal.afterwards


def test_ctrl_c_waits_for_the_jobs_and_says_in_one_line_how_to_resume(stage):
    with stage.play().terminal(80) as terminal:
        terminal.wait_for("epoch 2/3")
        terminal.type("\x03")
        terminal.wait_for("stopping: ")
        assert terminal.end() == 130
    assert (stage.root / "stopped").exists()
    (line,) = [line for line in terminal.afterwards.splitlines() if line.startswith("m2mkd: ")]
    assert line.startswith("m2mkd: interrupted; ")


def test_a_second_ctrl_c_ends_what_does_not_stop(stage):
    with stage.play("deaf").terminal(80) as terminal:
        terminal.wait_for("epoch 2/3")
        terminal.type("\x03")
        terminal.wait_for("stopping: ")
        terminal.type("\x03")
        assert terminal.end() == 130


def test_sigterm_lets_jobs_save_and_ends_the_process_as_before(stage):
    with stage.play("job").terminal(80) as terminal:
        terminal.wait_for("epoch 2/3")
        while not (stage.root / "job-runs").exists():
            terminal.read(0.1)
        (snakemake,) = psutil.Process(terminal.process.pid).children()
        terminal.process.send_signal(signal.SIGTERM)
        terminal.wait_for("stopping: ")
        while not (stage.root / "saved").exists():
            terminal.read(0.1)
        assert snakemake.is_running()  # it waits for its jobs
        stage.go(1, 2, 3)
        assert terminal.end() == -signal.SIGTERM
    (line,) = [line for line in terminal.afterwards.splitlines() if line.startswith("m2mkd: ")]
    assert line == "m2mkd: interrupted; re-running the same command resumes"


def test_without_a_terminal_there_is_a_line_for_each_finished_run_and_no_control_character(stage):
    stage.play().go(1, 2, 3)
    done = subprocess.run(
        stage.command, cwd=stage.root, env=stage.environment | {"FORCE_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace("\n", "").isprintable()
    ended = [line for line in done.stdout.splitlines() if re.match(r"\d+ of 36 runs", line)]
    assert len(ended) == 36 and ended[-1].startswith("36 of 36 runs: ")
    assert "V-MoE: m2mKD - end to end, IID  " in done.stdout and "holds in typical seeds" in done.stdout
    assert "tables   results/smoke/tables/results.md" in done.stdout


def test_snakemake_that_fails_by_itself_is_quoted(stage):
    (stage.root / "bin/snakemake").write_text("#!/bin/sh\necho 'WorkflowError: no such target'; exit 1\n")
    done = subprocess.run(stage.play().command, cwd=stage.root, env=stage.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WorkflowError: no such target" in done.stdout and "Snakemake ended with status 1" in done.stdout
