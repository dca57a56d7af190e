"""One job: a run with all its replicates, from the lock on its work folder to the publication of its outputs."""

import importlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from m2mkd.config.phases import METRICS, RECORD, Phase
from m2mkd.config.study import Run, Study
from m2mkd.files import publish, sha256, write_json
from m2mkd.processes import exclusive
from m2mkd.training.machine import Machine
from m2mkd.training.weights import save_weights

if TYPE_CHECKING:
    from torch import Tensor

P = TypeVar("P", bound=Phase)


@dataclass(frozen=True)
class Job(Generic[P]):
    """One replicate of one run, as its phase sees it."""

    config: P
    replicate: int
    upstream: dict[str, tuple[Path, ...]]
    """Output folders that it builds on, by role."""
    work: Path
    """Folder for checkpoints; survives an interruption."""
    machine: Callable[[], Machine]
    """Gives the device; loads torch when first called."""
    title: str


@dataclass(frozen=True)
class Outcome:
    """What a phase computed."""

    metrics: dict[str, Any]
    """Final measurements, for ``metrics.json``."""
    weights: "Mapping[str, Tensor] | None" = None


def execute(study: Study, run: Run, machine: Callable[[], Machine], say: Callable[[str], object]) -> None:
    """Compute every replicate of a run and publish the outputs of all of them at the end.

    Finished replicates wait in the work folder, so that an interruption costs no more than the steps since the last
    checkpoint; a published output is always whole.

    Parameters
    ----------
    study
        The graph that the run belongs to.
    run
        What to compute.
    machine
        Gives the device; called only if a tensor is to be computed.
    say
        Told what is going on.
    """
    phase = importlib.import_module(f"m2mkd.training.phases.{run.phase}")
    work = Path(study.root) / "work" / run.id
    with exclusive(work, "snakemake", say):
        if run.config.COMPUTES:
            machine()  # before anything else, for it fixes the number of threads
        for slot, replicate in enumerate(run.config.replicates):
            folder = work / str(slot)
            if (folder / RECORD).is_file():
                continue
            upstream = {
                role: tuple(Path(study.folder(id_)) / str(study.slot_of(study.runs[id_], slot)) for id_ in ids)
                for role, ids in run.upstream.items()
            }
            started = time.time()
            job = Job(run.config, replicate, upstream, folder, machine, f"{run.id} replicate {replicate}")
            record_outputs(run, slot, folder, phase.run(job), started)
        for slot in range(len(run.config.replicates)):
            for output in study.outputs(run, slot):
                publish(work / str(slot) / Path(output).name, Path(output))
        # Renamed first, so that a kill in the middle of the removal leaves no half work folder behind.
        done = work.with_name(f".{work.name}.done")
        shutil.rmtree(done, ignore_errors=True)
        shutil.rmtree(work.rename(done))


def record_outputs(run: Run, slot: int, folder: Path, outcome: Outcome, started: float) -> None:
    """Write the outputs of one replicate; its record comes last and marks it as finished."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [name for name in run.config.OUTPUTS if name != RECORD]
    if outcome.weights is not None:
        save_weights(folder, outcome.weights, run.id)
    if METRICS in outputs:
        write_json(folder / METRICS, outcome.metrics)
    write_json(
        folder / RECORD,
        {
            "id": run.id,
            "phase": run.phase,
            "key": run.key,
            "slot": slot,
            "replicate": run.config.replicates[slot],
            "config": run.config.model_dump(mode="json"),
            "upstream": run.upstream,
            "outputs": {name: sha256(folder / name) for name in outputs},
            "data": {str(data): json.loads(Path(data.folder, "manifest.json").read_text())["digest"] for data in run.config.data_sets},
            "provenance": provenance() | {"started": started, "seconds": time.time() - started},
        },
    )


def provenance() -> dict[str, Any]:
    """Where and with what something is computed: recorded, but part of no key."""

    def git(*arguments: str) -> str | None:
        try:
            return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "packages": {name: version(name) for name in ("m2mkd", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors")},
    }
