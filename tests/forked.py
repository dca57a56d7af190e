"""Real jobs in processes of their own, which can be killed at a chosen instant; libraries are imported once for all of them."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m2mkd.config import load
from m2mkd.config.merge import merged
from m2mkd.errors import INTERRUPTED, Interrupted
from m2mkd.study.files import planned_runs
from m2mkd.study.plan import build_study
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from tests.conftest import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["m2mkd.training.phases.train_student", "m2mkd.training.phases.pretrain_meta", "tests.forked"])
EXPERIMENT = "vmoe_base/end_to_end"
JOB = {"epochs": 2, "batch_size": 32, "train_share": 0.25, "eval_every": 1, "warmup_epochs": 1, "drop_path": 0.2}


OVERRIDES = {"checkpoint_updates": 3, "models": {"vmoe_base": {"depths": [2, 1, 1, 1]}}, "recipes": {"vmoe_end_to_end_100": JOB}}


def planned(**changes: Any) -> Study:
    """The study of a student with two epochs of eleven updates and a checkpoint after every third."""
    settings = {"scale": "smoke", "experiments": [EXPERIMENT], "overrides": merged(OVERRIDES, changes)}
    return build_study(load.settings(settings))


def student(study: Study) -> Run:
    """Its one student."""
    return next(run for run in study.runs.values() if run.phase == "train_student")


def command(**changes: Any) -> list[str]:
    """The same as a person types it."""
    sets = [word for change in load.as_assignments(merged(OVERRIDES, changes)) for word in ("--set", change)]
    name = student(planned(**changes)).id
    return [sys.executable, "-m", "m2mkd", "run", name, "--scale", "smoke", "--experiment", EXPERIMENT, *sets]


def project(root: Path) -> Path:
    """A folder in which the job can run, with its prepared data."""
    from m2mkd.data.prepare import prepare

    (root / "config").symlink_to(ROOT / "config")
    with contextlib.chdir(root):
        for data in student(planned()).config.data_sets:
            prepare(data.name, load.datasets()[data.name], data.image_size, Path(data.folder), processes=1)
    return root


def compute(rank: int, ranks: int, port: int, root: Path, prepare: Callable[[], object]) -> None:
    """Compute the student in this process, after ``prepare`` has meddled with it."""
    from m2mkd.ranks import Ranks
    from m2mkd.training.job import execute
    from m2mkd.training.machine import Policy, machine_for

    os.chdir(root)
    with (root / f"log.{rank}").open("a") as log:
        os.dup2(log.fileno(), 2)
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if rank == 0:
        prepare()
    study = planned()
    run = student(study)
    policy = Policy(study.scale.checkpoint_minutes, study.scale.checkpoint_updates)
    here = Ranks(rank, ranks)
    try:
        execute(
            [planned_runs(study)[run.id]],
            machine_for("cpu", 1, ranks=here, checkpoints=policy),
            lambda text: os.write(2, f"{text}\n".encode()),
            here,
        )
    except Interrupted:
        os._exit(INTERRUPTED)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run_ranks(target: Callable[..., object], ranks: int, *arguments: Any) -> list[int | None]:
    """Call ``target`` with rank, number of ranks, a free port and the arguments in as many processes; gives their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [_CONTEXT.Process(target=target, args=(rank, ranks, port, *arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def run(root: Path, prepare: Callable[[], object] | None = None, ranks: int = 1) -> list[int | None]:
    """Run the job to its end, whichever; ``prepare`` meddles with its first rank."""
    return run_ranks(compute, ranks, root, prepare or _nothing)


def outputs(root: Path) -> dict[str, bytes]:
    """What the job published, but the record, which holds times."""
    found = sorted(root.glob("results/smoke/runs/train_student/*/*"))
    return {path.name: path.read_bytes() for path in found if path.name != "run.json"}


def forget(root: Path) -> None:
    """Remove all results."""
    shutil.rmtree(root / "results", ignore_errors=True)


def record(root: Path) -> dict[str, Any]:
    """The record of the job."""
    (path,) = root.glob("results/smoke/runs/train_student/*/run.json")
    return json.loads(path.read_text())


def _nothing() -> None:
    """Meddle with nothing."""


class KilledAt:
    """Kills the process by SIGKILL in the middle of its ``number``-th (from 1) event of a kind."""

    def __init__(self, event: str, number: float):
        self.event, self.number = event, number

    def __repr__(self) -> str:
        return f"{self.event} {self.number}"

    def __call__(self) -> None:
        if self.event == "seconds":
            threading.Thread(target=lambda: (time.sleep(self.number), _kill()), daemon=True).start()
            return
        owner, name, when = _EVENTS[self.event]()
        original, count = getattr(owner, name), 0

        def watched(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if when(*arguments):
                count += 1
                if count == self.number:
                    _kill()
            return original(*arguments, **options)

        setattr(owner, name, watched)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


def _of(module: str, owner: str | None, name: str, when: Callable[..., bool] = lambda *_: True) -> Callable[[], tuple[Any, str, Any]]:
    def find() -> tuple[Any, str, Any]:
        import importlib

        found = importlib.import_module(module)
        return (getattr(found, owner) if owner else found), name, when

    return find


_EVENTS: dict[str, Callable[[], tuple[Any, str, Any]]] = {
    "update": _of("m2mkd.training.update", "Training", "step"),
    "log line without checkpoint": _of(
        "m2mkd.training.update", "Training", "save", lambda training: training.progress.updates == 11 * training.progress.epochs
    ),
    "checkpoint write": _of("m2mkd.training.checkpoint", "_Hashed", "write"),
    "checkpoint rename": _of("pathlib", "Path", "replace", lambda source, _: ".checkpoint" in source.name),
    "removal of an old checkpoint": _of("pathlib", "Path", "unlink", lambda path, *_: path.name.startswith("checkpoint")),
    "weights rename": _of("pathlib", "Path", "replace", lambda _, target: target.name == "model.safetensors"),
    "record rename": _of("pathlib", "Path", "replace", lambda _, target: target.name == "run.json"),
    "final rename": _of("pathlib", "Path", "replace", lambda _, target: "runs" in target.parts),
    "removal of the work folder": _of("shutil", None, "rmtree", lambda path, *_: str(path).endswith(".done")),
}
EVENTS = dict(zip(_EVENTS, (22, 1, 150, 6, 4, 2, 2, 4, 2), strict=True))
"""Kinds of instants at which a job can be killed, each with a number that an undisturbed job comes to."""
