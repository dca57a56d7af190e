"""What was computed, or put there by hand, stays, whatever Snakemake remembers."""

import json
import os
import shutil
import signal
import subprocess
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

RUN = "train_student"


def mark(project: Project, path: Path) -> Path:
    """What a Snakemake leaves that was killed while a job of it ran."""
    name = urlsafe_b64encode(str(path.relative_to(project.root)).encode()).decode()
    marked = project.root / ".snakemake/incomplete" / name
    marked.parent.mkdir(parents=True, exist_ok=True)
    marked.write_text("{}")
    return marked


def state_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def start(project: Project, target: str) -> subprocess.Popen:
    """A Snakemake that works by itself, in a session of its own."""
    options = {"cwd": project.root, "env": project.environment, "start_new_session": True, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(["snakemake", "--cores", "1", target], **options)


@pytest.fixture
def copied(finished, copy_of) -> tuple[Project, Path]:
    """A finished study, and a student of it."""
    project = copy_of(finished)
    return project, sorted((project.root / "results/smoke/runs" / RUN).iterdir())[0]


def test_a_run_that_is_whole_is_not_redone_because_snakemake_did_not_see_it_end(copied):
    project, folder = copied
    before = state_of(folder)
    marks = [mark(project, path) for path in folder.iterdir()]
    assert project.jobs(f"all_{RUN}", "--rerun-incomplete") == []
    assert state_of(folder) == before and not any(path.exists() for path in marks)


def test_a_run_that_is_damaged_is_redone(copied):
    project, folder = copied
    before = state_of(folder)
    (folder / "model.safetensors").write_bytes(b"half")
    mark(project, folder / "model.safetensors")
    assert RUN in project.jobs(f"all_{RUN}")
    assert state_of(folder)["model.safetensors"] == before["model.safetensors"]


def test_outputs_that_snakemake_removed_are_published_again(copied):
    project, folder = copied
    before = state_of(folder)
    kept = project.root / "results/smoke/work" / RUN / f".{folder.name}.done"
    shutil.copytree(folder, kept)
    shutil.rmtree(folder)
    assert project.jobs(f"all_{RUN}") == sorted([f"all_{RUN}", RUN])
    assert state_of(folder) == before, "run.json says when it was computed"
    assert not kept.exists()


def test_snakemake_alone_is_killed_while_its_job_goes_on(project):
    project.set_config(scale="smoke", experiments=["vmoe_base/end_to_end"])
    process = start(project, f"all_{RUN}")
    runs, deadline = project.root / "results/smoke/runs" / RUN, time.monotonic() + 240
    work = project.root / "results/smoke/work" / RUN
    while not list(work.glob("[0-9a-f]*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while not list(runs.glob("*/run.json")):
        assert time.monotonic() < deadline, "its job goes on without it"
        time.sleep(0.1)
    time.sleep(2)
    (folder,) = runs.iterdir()
    before = state_of(folder)
    project.snakemake("--unlock")
    assert project.jobs(f"all_{RUN}") == []
    assert state_of(folder) == before


def by_hand(project):
    """Take a set that cannot be downloaded: a pack in place of the photographs that the scale trains on."""
    project.scale = "tiny-imagenet-100"
    path = project.root / "config/scales/tiny-imagenet-100.yaml"
    path.write_text(path.read_text().replace("tiny-imagenet-100@64", "cub-20@64"))


@pytest.mark.parametrize("call", [(), ("--forcerun", "fetch"), ("--forceall",)], ids=["killed fetch", "forcerun", "forceall"])
def test_a_file_that_was_put_there_by_hand_stays(project, packs_dir, monkeypatch, call):
    monkeypatch.delenv("M2MKD_DATA_SOURCE", raising=False)
    source = packs_dir / "cub20-resized224.zip"
    target = project.root / "data/raw" / source.name
    target.parent.mkdir(parents=True)
    shutil.copyfile(source, target)
    before = target.stat()
    mark(project, target)
    by_hand(project)
    receipt = f"results/{project.scale}/fetched/{source.name}"
    project.snakemake(receipt, *call)
    after = target.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    # Where it goes away, it is wanted again.
    target.unlink()
    done = project.snakemake(receipt, "--retries", "0", check=False)
    assert done.returncode and "by hand" in done.stdout + done.stderr


def test_what_was_refused_is_not_tried_again(project, monkeypatch):
    monkeypatch.delenv("M2MKD_DATA_SOURCE", raising=False)
    by_hand(project)
    done = project.snakemake(f"results/{project.scale}/fetched/cub20-resized224.zip", check=False)
    said = done.stdout + done.stderr
    assert done.returncode and "by hand" in said and "Trying to restart" not in said


def test_what_failed_otherwise_is_tried_again(project):
    project.set_config(scale="smoke")
    (project.root / "m2mkd/data/prepare.py").write_text("raise RuntimeError('broken')\n")
    done = project.run("env", f"PYTHONPATH={project.root}", "snakemake", "--cores", "2", "all_data", check=False)
    assert done.returncode and "Trying to restart" in done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink", "reflink"])
def test_whatever_links_dvc_makes_a_restored_clone_has_nothing_to_compute(kept, tmp_path, kind):
    clone = kept.clone(tmp_path / "clone")
    clone.run("dvc", "config", "--local", "cache.type", f"{kind},copy" if kind == "reflink" else kind)
    clone.run("m2mkd", "restore")
    link = next((clone.root / "results/smoke/runs").glob("*/*/run.json"))
    assert link.is_symlink() == (kind == "symlink")
    assert clone.jobs() == []
    assert json.loads(link.read_text())["id"]


def test_gc_removes_nothing_while_a_workflow_runs(project):
    project.set_config(scale="smoke", experiments=["vmoe_base/end_to_end"])
    process = start(project, "all_data")
    while not list((project.root / "results/.workflows").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    done = project.run("m2mkd", "runs", "gc", "--delete", check=False)
    assert done.returncode == 2 and "a Snakemake that works here, may need" in done.stderr
    assert process.wait(timeout=240) == 0
    assert not list((project.root / "results/.workflows").glob("*.json"))
