"""GPUs of one machine and the jobs that share them: never one for two, never less than was asked, nothing kept by the dead."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.training import gpus

JOB = """
import sys, time
from m2mkd.training.gpus import reserve_gpus
held = reserve_gpus(int(sys.argv[1]), lambda news: print(news, file=sys.stderr, flush=True))
print("begin", time.monotonic(), *held, flush=True)
time.sleep(float(sys.argv[2]))
print("end", time.monotonic(), *held, flush=True)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a machine with so many GPUs, as its driver shows them."""

    def make(count: int) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        rows = "\n".join(f"{number}, GPU-{number:04x}" for number in range(count))
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'ROWS'\n{rows}\nROWS\n")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(gpus, "GPU_LOCKS", tmp_path / f"m2mkd-gpus-{os.getuid()}")
        monkeypatch.delenv(gpus.VISIBLE, raising=False)

    return make


def start(count: int, seconds: float) -> subprocess.Popen[str]:
    """A job that holds so many GPUs for a while."""
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(count), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def held_by(job: subprocess.Popen[str]) -> tuple[float, float, list[str]]:
    """From when until when a finished job held which GPUs."""
    printed, complaint = job.communicate(timeout=60)
    assert job.returncode == 0, complaint
    (_, begin, *devices), (_, end, *_) = (line.split() for line in printed.splitlines())
    return float(begin), float(end), devices


def test_no_two_jobs_ever_hold_the_same_gpu(machine):
    machine(3)
    jobs = [start(1 + number % 2, 0.3) for number in range(8)]
    held = [held_by(job) for job in jobs]
    assert [len(devices) for _, _, devices in held] == [1 + number % 2 for number in range(8)]
    for number, (begin, end, devices) in enumerate(held):
        for other_begin, other_end, others in held[:number]:
            assert not set(devices) & set(others) or end <= other_begin or other_end <= begin
    assert {device for _, _, devices in held for device in devices} == {"GPU-0000", "GPU-0001", "GPU-0002"}


def test_a_killed_job_holds_nothing(machine):
    machine(1)
    killed = start(1, 60)
    assert killed.stdout.readline().split()[0] == "begin"
    waiting = start(1, 0)
    assert waiting.stderr.readline() == "waiting for 1 of the GPUs GPU-0000\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert held_by(waiting)[2] == ["GPU-0000"]


def test_a_free_gpu_is_taken_at_once(machine):
    machine(2)
    holder = start(1, 60)
    assert holder.stdout.readline().split()[0] == "begin"
    other = start(1, 0)
    assert other.stderr.readline() == "on GPU-0001\n"
    assert held_by(other)[2] == ["GPU-0001"]
    holder.kill()
    holder.communicate()


@pytest.mark.parametrize(
    ("named", "devices"),
    [
        (None, ["GPU-0000", "GPU-0001", "GPU-0002"]),
        ("2, 0", ["GPU-0002", "GPU-0000"]),
        ("GPU-0001", ["GPU-0001"]),
        ("7", ["7"]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_visible_gpus_are_shared_out(machine, monkeypatch, named, devices):
    machine(3)
    if named is not None:
        monkeypatch.setenv(gpus.VISIBLE, named)
    assert gpus.visible() == devices


def test_more_gpus_than_can_be_seen_are_refused(machine, monkeypatch):
    machine(3)
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    with pytest.raises(InputError, match="--gpus 3: only 2 are visible"):
        gpus.reserve_gpus(3, print)


def test_a_machine_without_a_driver_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    assert gpus.visible() == []
