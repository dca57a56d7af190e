"""Nothing that was computed is removed or computed again: what counts are digests, whatever Snakemake or a clock says."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2mkd import marks, workflows
from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.processes import exclusive
from m2mkd.study import state
from m2mkd.study.files import planned_runs, write_plan
from m2mkd.study.plan import build_study
from m2mkd.study.whole import is_whole, kept_folder
from m2mkd.training import job as jobs
from tests.conftest import ROOT
from tests.fabricated import pretend_data, publish
from tests.wiring import Pretended


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The smoke study in a folder of its own."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return build_study(load.settings({"scale": "smoke"}))


@pytest.fixture
def computed(study):
    """Plans of three evaluations, and what computes them."""
    runs = [one for one in planned_runs(study).values() if one.run.phase == "evaluate"][:3]
    for one in runs:
        pretend_data(one.run.config)
    return runs, Pretended(lambda job: jobs.Outcome({"top1": 0.5}))


def execute(code, *planned):
    """What the job says that computes them."""
    said = []
    jobs.execute(planned, lambda: None, said.append, code=code)
    return said


def mark(output: str) -> Path:
    """What Snakemake leaves while it waits for a job."""
    path = Path(".snakemake/incomplete", urlsafe_b64encode(output.encode()).decode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_what_was_published_is_not_computed_again(computed):
    (one, *_), code = computed
    execute(code, one)
    before = (one.folder / "run.json").read_bytes()
    assert "is already complete" in execute(code, one)[0]
    assert len(code.seen) == 1 and (one.folder / "run.json").read_bytes() == before


def test_what_snakemake_removed_after_it_was_published_comes_back(computed):
    (one, *_), code = computed
    execute(code, one)
    before = {path.name: path.read_bytes() for path in one.folder.iterdir()}
    for path in one.folder.iterdir():  # as Snakemake does with the outputs of a job that did not end well
        path.unlink()
    assert "was computed before" in execute(code, one)[0]
    assert len(code.seen) == 1 and {path.name: path.read_bytes() for path in one.folder.iterdir()} == before


def test_a_damaged_output_is_computed_again_wherever_it_lies(computed):
    (one, *_), code = computed
    execute(code, one)
    (one.folder / "metrics.json").write_text("{}")  # a link: what was kept is damaged too
    assert not is_whole(one.folder, one.run) and not is_whole(kept_folder(one.work), one.run)
    execute(code, one)
    assert len(code.seen) == 2 and is_whole(one.folder, one.run)


def test_a_kill_while_the_work_folder_is_removed_costs_nothing(computed, monkeypatch):
    (one, *_), code = computed
    one.work.mkdir(parents=True)
    (one.work / "checkpoint.pt").write_text("large")
    removing = Path.unlink

    def killed(path, **options):
        if path.name == "checkpoint.pt":
            raise KeyboardInterrupt
        removing(path, **options)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(code, one)
    monkeypatch.setattr(Path, "unlink", removing)
    shutil.rmtree(one.folder)
    execute(code, one)
    assert len(code.seen) == 1 and is_whole(one.folder, one.run) and not list(one.work.parent.rglob("checkpoint.pt"))


SETTLE = """
from m2mkd import marks
from m2mkd.config import load
from m2mkd.study.plan import build_study

marks.clear_marks(build_study(load.settings({"scale": "smoke"})))
"""
"""For a process of its own, for a lock does not keep out the process that has it."""


def test_marks_of_whole_runs_are_taken_away_and_no_others(study, computed):
    (whole, damaged, held), code = computed
    execute(code, whole), execute(code, damaged), execute(code, held)
    (damaged.folder / "metrics.json").write_text("{}")
    found = [mark(f"{one.folder}/{name}") for one in (whole, damaged, held) for name in ("metrics.json", "run.json")]
    with exclusive(held.work, "snakemake", print):
        subprocess.run([sys.executable, "-c", SETTLE], check=True)
    assert [path.exists() for path in found] == [False, False, True, True, True, True]
    assert [kept_folder(one.work).exists() for one in (whole, damaged, held)] == [False, True, True]


def test_the_mark_of_a_long_name_is_found(tmp_path, monkeypatch):
    from snakemake.persistence.file import FilePersistence

    monkeypatch.chdir(tmp_path)
    snakemake = FilePersistence()
    for name in ("results/a/run.json", f"results/{'long' * 120}/~ä/run.json"):
        snakemake._mark_incomplete(name, None)
        assert marks.mark_of(name).is_file()


def test_the_mark_of_a_prepared_set_is_taken_away(study, computed):
    (one, *_), _ = computed
    manifest = f"{one.run.config.data.folder}/manifest.json"
    there, gone = mark(manifest), mark("data/packed/other/manifest.json")
    marks.clear_marks(study)
    assert not there.exists() and gone.exists()


def test_a_clock_that_jumps_back_between_two_jobs_makes_no_input_newer(study, computed):
    (one, *_), code = computed
    future = time.time() + 10 * 365 * 86400
    for parent in one.run.parents:
        publish(study, study.runs[parent], 0.5)
    inputs = jobs.inputs_of(one)
    for path in inputs:
        os.utime(path, (future, future))
    execute(code, one)
    assert {path.stat().st_mtime for path in inputs} == {state.NORMAL_MTIME}
    assert {path.stat().st_mtime for path in one.folder.iterdir()} == {state.NORMAL_MTIME}
    assert time.mktime((1990, 1, 1, 0, 0, 0, 0, 0, 0)) > state.NORMAL_MTIME, "no clock stands before it"


def test_what_tables_are_made_from_is_not_left_in_the_future(study, monkeypatch):
    Path("config").unlink()
    shutil.copytree(ROOT / "config", "config")
    os.utime("config/claims.tsv", (time.time() + 1e6,) * 2)
    old = Path("config/models.yaml").stat().st_mtime
    state.normalise_all_mtimes(study)
    assert Path("config/claims.tsv").stat().st_mtime <= time.time() and Path("config/models.yaml").stat().st_mtime == old


def test_times_are_set_of_links_and_not_of_what_they_lead_to(study, computed):
    (one, *_), code = computed
    execute(code, one)
    for path in list(one.folder.iterdir()):
        cached = path.rename(Path(f"cache-{path.name}"))
        os.utime(cached, (1e9, 1e9))
        cached.chmod(0o444)
        path.symlink_to(cached.resolve())
    state.normalise_mtimes(study)
    assert {path.lstat().st_mtime for path in one.folder.iterdir()} == {state.NORMAL_MTIME}
    assert {path.stat().st_mtime for path in one.folder.iterdir()} == {1e9}
    assert is_whole(one.folder, one.run)


def gc(*options: str):
    return CliRunner().invoke(app, ["runs", "gc", "--scale", "smoke", *options])


def test_gc_names_surplus_plans_too(study):
    write_plan(study)
    surplus = [Path(study.root, "plan", name) for name in ("evaluate/0123456789abcdef.json", "study-0123456789abcdef.json", "graph-0.json")]
    for path in surplus:
        path.write_text("{}")
    listed = gc().stdout.splitlines()
    assert sorted(listed) == sorted(f"not needed: {path}" for path in surplus)
    gc("--delete")
    assert not any(path.exists() for path in surplus) and read_back(study) == study.key
    assert gc().stdout == "every run folder and plan is needed\n"


def read_back(study):
    from m2mkd.study.files import read_study

    return read_study("smoke", study.key).key


def test_gc_leaves_what_a_job_holds(study):
    folder = Path(study.root, "runs/evaluate/0123456789abcdef")
    folder.mkdir(parents=True)
    code = "import sys; from pathlib import Path; from m2mkd.processes import exclusive\n"
    code += "with exclusive(Path(sys.argv[1]), 'x', print): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, f"{study.root}/work/evaluate/{folder.name}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    assert "kept, because a job holds it" in gc("--delete").stdout and folder.is_dir()
    holder.communicate()
    assert "removed" in gc("--delete").stdout and not folder.is_dir()


def note(host: str, age: float = 0.0) -> Path:
    """What a Snakemake leaves in the folder while it works."""
    path = workflows.RECORDS / f"{host}-7.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": host, "pid": 7}))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("command", [["gc", "--delete"], ["migrate"]])
def test_nothing_is_removed_while_a_snakemake_works_here(study, command):
    note("other.example")
    done = CliRunner().invoke(app, ["runs", *command, "--scale", "smoke"])
    assert isinstance(done.exception, InputError) and "process 7 on other.example, a Snakemake" in str(done.exception)
    assert gc().exit_code == 0, "looking is allowed"


@pytest.mark.parametrize(
    ("host", "age", "expected"), [("other.example", 0, 1), ("other.example", 600, 0), (socket.gethostname(), 0, 0)], ids=str
)
def test_a_snakemake_on_another_machine_counts_as_long_as_it_touches_its_note(study, host, age, expected):
    note(host, age)
    assert len(list(workflows.working())) == expected


def test_a_snakemake_on_another_machine_is_waited_for(study, monkeypatch):
    path, said = note("other.example"), []
    monkeypatch.setattr(workflows, "HEARTBEAT", 0.01)
    monkeypatch.setattr(workflows.time, "sleep", lambda _: path.unlink())
    workflows.wait_for_all(said.append)
    assert said == ["waiting for process 7 on other.example, a Snakemake that works here"]
