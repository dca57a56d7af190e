"""Real jobs that train a detector, in processes of their own that can be killed at a chosen instant; see `tests.forked`."""

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from m2mkd.data import digits_scenes
from m2mkd.errors import INTERRUPTED, Interrupted
from m2mkd.study.files import planned_runs
from m2mkd.study.study import Study
from tests import forked
from tests.conftest import ROOT
from tests.scenes import TRAIN, VAL, detection_study, detector_run, write_scenes

CHECKPOINTS = {"checkpoint_updates": 3}


def planned() -> Study:
    """A training of ten updates, with a checkpoint after every third."""
    return detection_study(**CHECKPOINTS)


def project(root: Path) -> Path:
    """A folder in which the job can run, with its prepared data."""
    (root / "config").symlink_to(ROOT / "config")
    run = detector_run(planned())
    write_scenes(root / run.config.data.folder)
    return root


def compute(rank: int, ranks: int, port: int, root: Path, prepare: Callable[[], object] | None) -> None:
    """Compute the detector in this process, after ``prepare`` has meddled with it."""
    from m2mkd.ranks import Ranks
    from m2mkd.training.job import execute
    from m2mkd.training.machine import Policy, machine_for

    os.chdir(root)
    with (root / f"log.{rank}").open("a") as log:
        os.dup2(log.fileno(), 2)
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if rank == 0 and prepare is not None:
        prepare()
    digits_scenes.SCENES = {"train": TRAIN, "val": VAL}
    study = planned()
    run, here = detector_run(study), Ranks(rank, ranks)
    machine = machine_for("cpu", 1, ranks=here, checkpoints=Policy(study.scale.checkpoint_minutes, study.scale.checkpoint_updates))
    try:
        execute([planned_runs(study)[run.id]], machine, lambda text: os.write(2, f"{text}\n".encode()), here)
    except Interrupted:
        os._exit(INTERRUPTED)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run(root: Path, prepare: Callable[[], object] | None = None, ranks: int = 1) -> list[int | None]:
    """Run the job to its end, whichever; ``prepare`` meddles with its first rank."""
    return forked.run_ranks(compute, ranks, root, prepare)


def outputs(root: Path) -> dict[str, bytes]:
    """What the job published, but the record, which holds times."""
    found = sorted(root.glob("results/smoke/runs/train_detector/*/*"))
    return {path.name: path.read_bytes() for path in found if path.name != "run.json"}


def forget(root: Path) -> None:
    """Remove all results."""
    shutil.rmtree(root / "results", ignore_errors=True)
