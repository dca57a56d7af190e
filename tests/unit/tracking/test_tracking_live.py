"""Mirroring to MLflow while trainings run: what is sent, when, and that no training is any the worse for it."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2mkd.study.phase import CURVES, RECORD
from m2mkd.tracking import live
from m2mkd.tracking.live import mirrored
from m2mkd.tracking.mlflow_mirror import MlflowMirror
from m2mkd.training import job as jobs
from m2mkd.training import usage
from m2mkd.training.curves import Curves
from tests.conftest import ROOT
from tests.fabricated import first, plan
from tests.wiring import Pretended, execute, plan_of
from tests.workflow.servers import free_port

PATIENCE = 900
"""Seconds until the other process must have sent something: it runs only when a core is idle, which the other tests may leave to none."""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return plan(tmp_path, "smoke", ["vmoe_base/m2mkd"])


@pytest.fixture
def run(study):
    return first(study, "pretrain_meta")


@pytest.fixture
def store(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/live.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return tmp_path / "live.db"


def curves_of(study, run, folder="work") -> Curves:
    return Curves(Path(study.root, folder, run.id, CURVES))


def line(epoch: int, loss: float) -> dict:
    return {"epoch": epoch, "step": 10 * epoch, "loss": loss}


def mirror_of(study, run) -> MlflowMirror:
    return MlflowMirror({"experiment": "m2mkd/smoke", "seconds": 0.2, "runs": [live.order_of(*plan_of(study, run))]}, os.getppid())


def stored(database: Path) -> list[tuple]:
    with sqlite3.connect(database) as connection:
        return connection.execute(
            "select m.key, m.step, m.value from metrics m join runs r using (run_uuid) where r.lifecycle_stage = 'active' order by 1, 2, 3"
        ).fetchall()


def states(database: Path) -> list[str]:
    with sqlite3.connect(database) as connection:
        return [status for (status,) in connection.execute("select status from runs where lifecycle_stage = 'active'")]


def wait_for(condition) -> None:
    patience = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patience, "nothing came"
        time.sleep(0.1)


@pytest.mark.parametrize("published", [True, False])
def test_a_process_beside_the_training_sends_what_it_writes(study, run, store, monkeypatch, published):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **named: started.append(popen(*args, **named)) or started[-1])
    monkeypatch.setattr(live, "SECONDS", 0.2)
    with mirrored(plan_of(study, run)):
        curves = curves_of(study, run)
        curves.append(line(1, 3.0))
        wait_for(lambda: store.exists() and (store.with_name(".done").exists() or _has(store, ("loss", 1, 3.0))))
        assert states(store) == ["RUNNING"]
        curves.append(line(2, 2.0))
        if published:  # as a job does at its end
            folder = Path(study.folder(run.id))
            folder.mkdir(parents=True)
            curves.path.rename(folder / CURVES)
            (folder / RECORD).write_text("{}")
    assert started[0].wait(PATIENCE) == 0
    assert stored(store) == [("loss", 1, 3.0), ("loss", 2, 2.0)]
    assert states(store) == ["FINISHED" if published else "KILLED"]


def _has(database: Path, point: tuple) -> bool:
    try:
        return point in stored(database)
    except sqlite3.OperationalError:  # its tables are being made
        return False


def test_it_ends_with_a_training_that_is_killed(study, run, store):
    """Nobody can say goodbye after SIGKILL."""
    code = """
import os, subprocess
from pathlib import Path
from m2mkd.tracking import live
from tests.fabricated import first, plan
from tests.wiring import plan_of
study = plan(Path.cwd(), "smoke", ["vmoe_base/m2mkd"])
with live.mirrored(plan_of(study, first(study, "pretrain_meta"))):
    print(live_pid := [int(p) for p in Path("/proc/self/task/{}/children".format(os.getpid())).read_text().split()][0], flush=True)
    os.kill(os.getpid(), 9)
"""
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(root)}, check=False)
    assert done.returncode == -9
    wait_for(lambda: not Path("/proc", done.stdout.decode().strip()).exists())


def test_nothing_is_started_where_no_store_is_named(study, run, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **named: pytest.fail("started"))
    with mirrored(plan_of(study, run)):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")
    with mirrored(plan_of(study, first(study, "evaluate"), first(study, "split_teacher"))):  # which train nothing
        pass
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with mirrored(plan_of(study, run)):
        pass


def test_a_job_is_mirrored_from_its_start_to_its_end(study, run, store, monkeypatch):
    events = []

    class Started:
        def __init__(self, command, stdin, pass_fds, **named):
            order = json.loads(os.pread(pass_fds[0], 10**6, 0))
            events.append([Path(one["work"]).parent.name for one in order["runs"]])
            self.stdin = SimpleNamespace(write=lambda word: events.append("end"), close=lambda: None)

    def compute(job):
        events.append("computed")
        curves_of(study, run).append(line(1, 3.0))
        return jobs.Outcome({"val_top1": 0.5}, {})

    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(jobs, "provenance", dict)
    execute(study, run, code=Pretended(compute))
    assert events == [[run.key], "computed", "end"]
    assert Path(study.outputs(run)[0]).is_file()


def test_a_mirror_that_cannot_start_is_no_reason_to_stop(study, run, store, monkeypatch, capfd):
    def none(*args, **named):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", none)
    with mirrored(plan_of(study, run)):
        trained = True
    assert trained
    assert "not mirrored to MLflow (no more processes)" in capfd.readouterr().err


def test_a_store_that_is_away_is_complained_of_once_and_gets_everything_later(study, run, store, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = mirror_of(study, run)
    curves = curves_of(study, run)
    curves.append(line(1, 3.0))
    assert not mirror.turn()
    curves.append(line(2, 2.0))
    assert not mirror.turn()
    said = capfd.readouterr().err
    assert said.count("takes nothing") == 1 and "'m2mkd track sync' brings what is missing" in said and "secret" not in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert mirror.turn()
    assert stored(store) == [("loss", 1, 3.0), ("loss", 2, 2.0)]


def test_lines_that_an_interrupted_training_will_cut_off_are_not_sent(study, run, store):
    curves = curves_of(study, run)
    size = curves.append(line(1, 3.0))
    curves.append(line(2, 99.0))
    mirror = mirror_of(study, run)
    assert mirror.turn() and mirror.followed[0].run is None
    curves.cut(size)
    curves.append(line(2, 2.0))
    assert mirror.turn()
    assert stored(store) == [("loss", 1, 3.0), ("loss", 2, 2.0)]


def test_half_a_line_waits_for_its_other_half(study, run, store):
    mirror = mirror_of(study, run)
    path = curves_of(study, run).path
    path.write_text(json.dumps(line(1, 3.0)) + '\n{"epoch": 2, "lo')
    assert mirror.turn()
    assert stored(store) == [("loss", 1, 3.0)]
    path.write_text(json.dumps(line(1, 3.0)) + "\n" + json.dumps(line(2, 2.0)) + "\n")
    assert mirror.turn()
    assert stored(store) == [("loss", 1, 3.0), ("loss", 2, 2.0)]


def test_an_interrupted_training_goes_on_in_the_same_run(study, run, store):
    for epoch in (1, 2):
        mirror = mirror_of(study, run)
        curves_of(study, run).append(line(epoch, 3.0 / epoch))
        assert mirror.turn(last=True)
    assert stored(store) == [("loss", 1, 3.0), ("loss", 2, 1.5)]
    assert states(store) == ["KILLED"]


def test_a_run_that_somebody_deleted_is_left_alone(study, run, store):
    mirror = mirror_of(study, run)
    curves = curves_of(study, run)
    curves.append(line(1, 3.0))
    assert mirror.turn()
    mirror.store.client.delete_run(mirror.followed[0].run.info.run_id)
    curves.append(line(2, 2.0))
    assert mirror.turn() and mirror.turn(last=True)
    assert stored(store) == []


def test_memory_and_energy_are_read_where_they_can_be(monkeypatch):
    assert usage.Usage().read().keys() == {"seconds", "peak_memory_bytes"}
    assert 10 * 2**20 < usage.Usage().read()["peak_memory_bytes"] < 2**37
    used = iter([1_000_000, 1_000_000 + 60_000])  # millijoules since the driver was loaded
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda identity: {"GPU-12ab": "first"}[identity],
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"first": lambda: next(used)}[handle](),
    )
    cuda = SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: 0,
        get_device_properties=lambda device: SimpleNamespace(uuid="12ab"),
        max_memory_allocated=lambda: 2**30,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    found = usage.Usage(together=3).read()
    assert (found["gpu_joules"], found["peak_gpu_memory_bytes"]) == (20.0, 2**30)


def test_what_sessions_and_ranks_spend_adds_up():
    now, counted = 0.0, True

    def used(together):
        return usage.Usage(together, lambda: now, lambda: 10 * now if counted else None)

    first = used(2)
    now = 8.0
    kept = first.spent()
    assert kept == {"seconds": 4.0, "gpu_joules": 40.0}
    second = used(1)
    second.go_on_from(kept)
    second.go_on_from({"seconds": 1.0, "gpu_joules": 10.0})  # of a training before that one
    now = 9.0
    two = SimpleNamespace(all_gather=lambda mine: [mine, mine | {"gpu_joules": 60.0, "peak_memory_bytes": 2**60}])
    assert second.read(two) == {"seconds": 5.0, "gpu_joules": 110.0, "peak_memory_bytes": 2**60}
    counted = False
    assert second.spent() == {"seconds": 5.0, "gpu_joules": 40.0}, "what is not counted any more stays"


def test_energy_is_left_out_where_the_gpu_does_not_count_it(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True, max_memory_allocated=lambda: 2**30)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert "gpu_joules" not in usage.Usage().read()
