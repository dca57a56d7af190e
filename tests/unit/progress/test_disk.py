"""A study followed by its files."""

import json
import os
import shutil
import socket
from pathlib import Path

import psutil
import pytest

from m2mkd.progress.disk import StudyOnDisk
from m2mkd.progress.remaining import Remaining, Spent
from m2mkd.progress.snakemake_log import SnakemakeLog
from m2mkd.study.files import redo_mark
from m2mkd.study.receipt import report_receipt
from tests.fabricated import finish, first, plan

FAILURE = """[Sat Nov 28 18:54:35 2026]
Error in rule {rule}:
    message: None
    jobid: 18
    output: some/file
    log: {log} (check log file(s) for error details)
    shell:
        m2mkd run
Logfile {log}:
======
m2mkd: inside a log, no news
======
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of scale smoke."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        finish(plan(root, "smoke"))
    return root


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    root = tmp_path / "project"
    shutil.copytree(finished, root)
    monkeypatch.chdir(root)
    return plan(root, "smoke")


def followed(study) -> StudyOnDisk:
    return StudyOnDisk(study, SnakemakeLog(Path("snakemake.txt")))


def hold(study, run_id: str, host: str | None = None, pid: int | None = None) -> Path:
    """Let this process, or another, hold a run as its job."""
    process = psutil.Process()
    owner = Path(study.root, "work", f"{run_id.replace('/', '/.')}.owner.json")
    owner.parent.mkdir(parents=True, exist_ok=True)
    identity = {"pid": pid or process.pid, "created": process.create_time()}
    owner.write_text(json.dumps({"host": host or socket.gethostname(), "self": identity}))
    return owner


def set_aside(study, run_id: str) -> Path:
    """Take a run's outputs away."""
    return Path(shutil.move(study.folder(run_id), "aside"))


def test_a_finished_study_is_done_and_takes_no_more_time(study):
    seen = followed(study).look()
    assert (seen.done, seen.total, seen.left, seen.running, seen.failed, seen.ended) == (36, 36, 0.0, (), (), ())
    assert all(phase.done == phase.total for phase in seen.phases[1:-1])


def test_a_run_that_appears_has_ended(study):
    run = first(study, "train_student")
    aside = set_aside(study, run.id)
    disk = followed(study)
    assert disk.look().done == 35
    aside.rename(study.folder(run.id))
    seen = disk.look()
    (ended,) = seen.ended
    assert seen.done == 36 and ended.title == "train vmoe_base/end_to_end, seed 0" and "top-1 90.0 %" in ended.measured
    assert disk.look().ended == ()


def test_a_held_run_is_shown_with_what_its_curve_says(study):
    run = first(study, "train_student")
    set_aside(study, run.id)
    disk = followed(study)
    hold(study, run.id)
    curve = Path(study.root, "work", run.id, "metrics.jsonl")
    curve.parent.mkdir(parents=True)
    curve.write_text('{"epoch": 1, "step": 8, "loss": 0.5}\n')
    (job,) = disk.look().running
    assert (job.title, job.position, job.measured) == ("train vmoe_base/end_to_end, seed 0", "epoch 1/3", "loss 0.5")


def test_what_a_killed_process_left_does_not_run_and_another_machine_is_believed(study):
    run = first(study, "evaluate")
    set_aside(study, run.id)
    disk = followed(study)
    owner = hold(study, run.id, pid=2**22 + 1)
    assert disk.look().running == ()
    hold(study, run.id, host="another")
    assert len(disk.look().running) == 1
    os.utime(owner, (disk.began - 100, disk.began - 100))
    assert disk.look().running == ()


def test_a_job_whose_log_has_begun_starts(study):
    run = first(study, "evaluate")
    set_aside(study, run.id)
    disk = followed(study)
    log = Path(study.root, "logs", f"{run.id}.log")
    log.parent.mkdir(parents=True)
    log.touch()
    os.utime(log, (disk.began + 1, disk.began + 1))
    assert [job.position for job in disk.look().running] == ["starts"]


def test_a_failure_is_shown_until_the_run_is_there(study):
    run = first(study, "distill_module")
    aside = set_aside(study, run.id)
    disk = followed(study)
    log = Path(study.root, "logs", f"{run.id}.log")
    log.parent.mkdir(parents=True)
    log.write_text("on cpu\nm2mkd: data/x: \x1b[2Jabsent\n\n")
    Path("snakemake.txt").write_text("m2mkd: 3 runs are new\nJob stats:\n" + FAILURE.format(rule="distill_module", log=log))
    seen = disk.look()
    (failed,) = seen.failed
    assert (failed.title, failed.log, failed.times) == ("distil module 0 of vmoe_base/m2mkd, seed 0", log.as_posix(), 1)
    assert failed.last_line == "m2mkd: data/x: \\x1b[2Jabsent"
    assert seen.news == ("3 runs are new",) and seen.planned and seen.running == ()
    with Path("snakemake.txt").open("a") as file:
        file.write(FAILURE.format(rule="distill_module", log=log))
    assert [job.times for job in disk.look().failed] == [2]
    aside.rename(study.folder(run.id))
    assert disk.look().failed == ()


def test_runs_that_are_computed_again_are_not_done(study):
    run = first(study, "evaluate")
    disk = followed(study)
    mark = redo_mark("smoke", run.id)
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert disk.look().done == 35
    os.utime(mark, (0, 0))  # its job has begun, and Snakemake has removed its outputs
    aside = set_aside(study, run.id)
    assert disk.look().done == 35
    aside.rename(study.folder(run.id))
    assert [one.title for one in disk.look().ended] == ["evaluate vmoe_base/end_to_end, seed 0"]


def test_outputs_that_snakemake_removes_are_missed(study):
    disk = followed(study)
    set_aside(study, first(study, "assemble_teacher").id)
    assert disk.look().done == 35


def test_time_left_follows_from_what_was_measured_here(study):
    remaining = Remaining(study, {})
    runs = list(study.runs)
    remaining.costs, remaining.parents = dict.fromkeys(runs, 1.0), dict.fromkeys(runs, ())
    assert remaining.seconds((), {}, {}, now=0.0) is None
    remaining.before[runs[0]] = Spent(100.0, 100.0)  # on another machine, perhaps
    assert remaining.seconds(runs[:1], {runs[1]: 0.0, runs[2]: 0.0}, {}, now=0.0) == 35 * 100 / 2
    # Two runs of ten seconds in forty: half a second of a run in one on the clock.
    remaining.here |= {runs[1]: Spent(10.0, 10.0), runs[2]: Spent(10.0, 10.0)}
    assert remaining.seconds(runs[:3], {}, {}, now=40.0) == 33 * 10 / 0.5
    half_way = remaining.seconds(runs[:3], {runs[3]: 40.0}, {runs[3]: 0.5}, now=40.0)
    assert half_way == 32.5 * 10 / 0.5


def test_a_run_that_only_copies_tells_nothing_of_the_others(study):
    remaining = Remaining(study, {})
    copied, computed, *others = study.runs
    remaining.costs = dict.fromkeys(study.runs, 1.0) | {copied: 0.0}
    remaining.parents = dict.fromkeys(study.runs, ())
    remaining.here[copied] = Spent(0.1, 0.1)
    assert remaining.seconds((copied,), {}, {}, now=1.0) is None
    remaining.before[computed] = Spent(50.0, 50.0)
    assert remaining.seconds((copied, computed), {}, {}, now=1.0) >= len(others) * 50.0


def test_tables_and_report_count_once_they_have_their_receipts(study):
    disk = followed(study)
    assert disk.look().phases[-1].done == 0
    receipt = Path(study.receipt)
    receipt.parent.mkdir(parents=True, exist_ok=True)
    receipt.touch()
    assert disk.look().phases[-1].done == 1
    report_receipt(study).touch()
    Path(study.root, "tracking.json").touch()
    assert disk.look().phases[-1].done == 3


def test_a_look_opens_no_weights(study, monkeypatch):
    opened = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *given, **named: opened.append(self) or original(self, *given, **named))
    disk = followed(study)
    opened.clear()
    disk.look()
    assert [path for path in opened if path.suffix == ".safetensors" or path.name == "run.json"] == []
