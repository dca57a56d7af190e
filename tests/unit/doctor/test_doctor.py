"""m2mkd doctor: each fault that it looks for, and that what is right is not reported."""

import json
import os
import shutil
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config.experiment import Settings
from m2mkd.containers.source import source_digest
from m2mkd.doctor import inside, machine, project
from tests.conftest import ROOT


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script on the PATH, which then has little else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "ls", "sed"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, body: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    return put


def test_the_table_names_every_check_and_a_failure_is_the_exit_code(monkeypatch, program):
    found = CliRunner().invoke(app, ["doctor", "--json"])
    rows = {row["check"]: row for row in json.loads(found.output)}
    assert list(rows) == [
        "engine", "apptainer", "image", "data roots", "gpu", "disk", "memory", "write access", "dvc remote", "mlflow store", "versions"
    ]  # fmt: skip
    assert rows["engine"]["status"] == rows["apptainer"]["status"] == rows["image"]["status"] == "warn"
    assert all(row["fix"] for row in rows.values() if row["status"] != "pass")
    failing = any(row["status"] == "fail" for row in rows.values())
    assert found.exit_code == failing
    monkeypatch.setattr(machine, "disk", lambda: machine.CheckResult("disk", "fail", "[0 GB] free", "free some"))
    found = CliRunner().invoke(app, ["doctor"])
    assert found.exit_code == 1 and "[0 GB]" in found.output


def test_inside_an_image_other_things_are_checked(monkeypatch, tmp_path):
    from m2mkd.containers import inside as image

    (tmp_path / "lock.txt").write_text("pydantic==0.0.1 \\\n    --hash=sha256:00\n")
    for module in (image, inside):
        monkeypatch.setattr(module, "ABOUT", tmp_path)
    (tmp_path / "provenance.json").write_text(
        json.dumps({"name": "m2mkd:cpu", "created": "2026-11-21T00:00", "revision": "abc", "changed": True})
    )
    rows = {row["check"]: row for row in json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)}
    assert list(rows)[:3] == ["provenance", "user", "image root"] and "engine" not in rows
    assert rows["provenance"]["found"] == "m2mkd:cpu of 2026-11-21, revision abc, with uncommitted changes"
    assert rows["versions"]["status"] == "warn" and "instead of 0.0.1" in rows["versions"]["found"]


@pytest.mark.parametrize(("uid", "apptainer", "status"), [(0, None, "fail"), (0, "/a.sif", "warn"), (10001, None, "pass")])
def test_root_in_an_image_is_a_fault_unless_apptainer_kept_it(monkeypatch, uid, apptainer, status):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        monkeypatch.delenv(name, raising=False)
    if apptainer:
        monkeypatch.setenv("APPTAINER_CONTAINER", apptainer)
    assert inside.user().status == status


def test_a_folder_for_results_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    assert inside.writable(tmp_path / "results").status == "pass"
    (tmp_path / "file").touch()
    assert inside.writable(tmp_path / "file").status == "fail"

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(inside.tempfile, "NamedTemporaryFile", refuse)
    found = inside.writable(tmp_path / "results")
    assert (found.status, found.fix) == ("fail", "bind the project, writable for this user")


def test_engines_are_told_apart_from_their_clients(program):
    program("docker", "exit 1")
    assert (machine.engine().status, machine.apptainer().status) == ("warn", "warn")
    assert "its daemon does not answer" in machine.engine().found
    program("podman", "echo 4.3.1")
    program("singularity", "echo singularity-ce version 4.1")
    assert machine.engine().found == "podman 4.3.1"
    assert machine.apptainer().found == "singularity-ce version 4.1"


@pytest.mark.parametrize(
    ("cuda", "driver", "sees", "status", "words"),
    [
        (None, None, False, "pass", "CPU build, no GPU"),
        (None, "580.1", False, "warn", "is the CPU build, and there is a GPU"),
        (None, "No devices were found", False, "pass", "CPU build, no GPU"),
        ("13.0", "No devices were found", False, "warn", "no device found"),
        ("13.0", None, False, "warn", "no device found"),
        ("13.0", "550.54", False, "fail", "driver 550.54 is too old for CUDA 13.0"),
        ("12.8", "550.54", False, "fail", "sees no device"),
        ("13.0", "580.1", True, "pass", "driver 580.1: Card"),
    ],
)
def test_gpu_driver_and_torch_are_held_against_each_other(program, monkeypatch, cuda, driver, sees, status, words):
    import torch

    if driver:
        program("nvidia-smi", f"echo {driver}")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card")
    found = machine.gpu()
    assert found.status == status and words in found.found
    assert (found.fix == "") == (status == "pass")


@pytest.mark.parametrize(("gigabytes", "status"), [(1, "fail"), (5, "warn"), (50, "pass")])
def test_disk_and_memory_have_limits(monkeypatch, gigabytes, status):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(gigabytes * 1e9))
    assert machine.disk().status == status
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(gigabytes * 1e9))
    monkeypatch.setattr(machine.Path, "is_file", lambda path: False)
    assert machine.memory().status == status


def test_an_image_of_other_code_is_found(program, tmp_path):
    image = tmp_path / "m2mkd.sif"
    settings = Settings(container=str(image))
    program("apptainer", f"echo org.m2mkd.source: {source_digest(ROOT / 'm2mkd')}")
    assert (project.image(settings).status, project.image(Settings(container="none")).status) == ("warn", "pass")
    image.touch()
    assert project.image(settings).status == "pass"
    program("apptainer", "echo org.m2mkd.source: 00")
    assert project.image(settings).status == "fail"
    archive = Settings(container=f"oci-archive:{tmp_path / 'm2mkd.tar'}")
    assert project.image(archive).status == "warn"
    (tmp_path / "m2mkd.tar").touch()
    assert project.image(archive).status == "pass"
    assert project.image(Settings(container="m2mkd")).status == "fail"


def test_data_roots_are_looked_at_from_inside_the_image(program, tmp_path):
    root = tmp_path / "data root"
    image = tmp_path / "m2mkd.sif"
    settings = Settings(container=str(image), binds=(str(root),))
    program("apptainer", 'for last; do :; done; ls "$last"')
    assert project.data_roots(settings)[0].status == "fail"
    root.mkdir()
    (root / "pack").touch()
    assert project.data_roots(settings)[0].status == "warn"
    image.touch()
    (found,) = project.data_roots(settings)
    assert found.status == "pass" and "1 entries" in found.found
    program("apptainer", "echo not mounted >&2; exit 1")
    (found,) = project.data_roots(settings)
    assert found.status == "fail" and found.found.endswith("not mounted")


def test_remotes_of_dvc(program, tmp_path):
    assert project.dvc_remote().status == "warn"
    program("dvc", f"printf 'store\\t{tmp_path}\\t(default)\\nfar\\ts3://bucket\\n'")
    assert project.dvc_remote().status == "pass"
    program("dvc", f"printf 'store\\t{tmp_path}/absent\\n'")
    assert "absent does not exist" in project.dvc_remote().found


def test_the_mlflow_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert project.mlflow_store(Settings()).status == "pass"
    Path("results").mkdir()
    with sqlite3.connect("results/mlflow.db") as connection:
        connection.execute("create table runs (id)")
    assert project.mlflow_store(Settings()).status == "pass"
    Path("results/mlflow.db").write_bytes(b"no database at all" * 100)
    assert project.mlflow_store(Settings()).status == "fail"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "does not answer" in project.mlflow_store(Settings()).found
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@host/runs")
    assert (project.mlflow_store(Settings()).status, project.mlflow_store(Settings()).found) == (
        "warn",
        "postgresql://host/runs is not checked",
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for address in ("http://user:secret@127.0.0.1:9", "http://127.0.0.1:abc"):
        found = project.mlflow_store(Settings(tracking_uri=address))
        assert found.status == "fail" and "does not answer" in found.found and "secret" not in found.found


def test_versions_that_differ_from_the_lock_are_named(tmp_path):
    lock = tmp_path / "lock.txt"
    assert project.versions(lock).status == "warn"
    lock.write_text(f"pydantic=={project.installed('pydantic')} \\\n    --hash=sha256:00\n")
    assert project.versions(lock).status == "pass"
    lock.write_text("pydantic==0.1\nno-such-thing==2\n")
    assert "pydantic" in project.versions(lock).found and "no-such-thing absent instead of 2" in project.versions(lock).found
