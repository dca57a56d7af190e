"""Profiles of machines: what jobs ask for there, and that several GPUs are shared out."""

import json
import os
import re
import shutil

import pytest

from tests.workflow.studies import held_gpus

GPUS = ("GPU-aaaa", "GPU-bbbb")


def test_jobs_ask_for_what_is_planned_on_a_machine_that_a_profile_describes(project):
    planned = project.run("m2mkd", "plan", "vmoe_base", "--scale", "paper", "--gpu", "h100", "--gpus", "1", "--json")
    hours = {run["id"]: run["gpu_hours"] for profile in json.loads(planned.stdout)["profiles"].values() for run in profile["runs"]}
    options = ["--profile", "profiles/slurm", "--slurm-no-account", "--dry-run", "--printshellcmds"]
    shown = project.run("snakemake", *options, "vmoe_base", "--config", "scale=paper")
    started = re.findall(r"^Job \d+: .* \((\w+/\w+)\) (gpu=.*)$", shown.stdout + shown.stderr, flags=re.M)
    asked = {run_id: dict(re.findall(r"(\w+)=(\d+)\b", resources)) for run_id, resources in started}
    # Where the submitting machine does a job itself, nothing is asked for.
    both = [id_ for id_ in asked.keys() & hours.keys() if not id_.startswith("split_teacher/")]
    assert len(both) > 20
    for id_ in both:
        assert int(asked[id_]["gpu"]) == 1
        assert int(asked[id_]["mem_mb"]) >= 6000
        assert int(asked[id_]["runtime"]) == pytest.approx(min(30 + 120 * hours[id_], 24 * 60), abs=1.01)
    assert len({asked[id_]["runtime"] for id_ in both}) > 3


def test_without_such_a_profile_jobs_share_what_is_there(project):
    shown = project.run("snakemake", "--cores", "1", "--dry-run", "--printshellcmds", "all_pretrain_meta", "--config", "scale=small")
    assert "m2mkd run pretrain_meta/" in shown.stdout + shown.stderr
    assert "--gpus" not in shown.stdout + shown.stderr
    assert "runtime" not in shown.stdout + shown.stderr


def test_jobs_of_one_machine_have_gpus_of_their_own(finished, copy_of, monkeypatch, tmp_path):
    project = copy_of(finished)
    runs = project.root / "results/smoke/runs/incubate_module"
    before = {path.relative_to(runs): path.read_bytes() for path in runs.rglob("*.safetensors")}
    shutil.rmtree(runs)
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\n" + "".join(f"echo {number}, {name}\n" for number, name in enumerate(GPUS)))
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # Twice as many jobs at a time as there are GPUs.
    project.run("snakemake", "all_incubate_module", "--profile", "profiles/gpu", "--cores", "4", "--resources", "gpu=4")

    assert {device for device, _, _ in held_gpus(project, "incubate_module")} == set(GPUS)
    assert {path.relative_to(runs): path.read_bytes() for path in runs.rglob("*.safetensors")} == before
