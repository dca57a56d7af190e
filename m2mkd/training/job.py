"""One job: a run, or several modules of one student, with all replicates, from the lock on the work folders to the published outputs."""

import importlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from m2mkd.containers import inside
from m2mkd.errors import InputError
from m2mkd.files import publish, sha256, write_json
from m2mkd.models.weights import save_weights
from m2mkd.processes import exclusive
from m2mkd.ranks import ALONE, Ranks
from m2mkd.signals import SignalGuard
from m2mkd.study.phases import METRICS, RECORD, Phase
from m2mkd.study.study import Run, Study
from m2mkd.tracking.live import mirrored
from m2mkd.training.machine import Machine
from m2mkd.training.usage import Usage

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
    usage: Usage = field(default_factory=Usage)
    """What is spent on it."""


@dataclass(frozen=True)
class Outcome:
    """What a phase computed."""

    metrics: dict[str, Any]
    """Final measurements, for ``metrics.json``."""
    weights: "Mapping[str, Tensor] | None" = None


def execute(study: Study, runs: Sequence[Run], machine: Callable[[], Machine], say: Callable[[str], object], ranks: Ranks = ALONE) -> None:
    """Compute every replicate of a run and publish the outputs of all of them at the end.

    Finished replicates wait in the work folder, so that an interruption costs no more than the steps since the last
    checkpoint; a published output is always whole. Of several ranks all compute, and the first one writes.

    Parameters
    ----------
    study
        The graph that the runs belong to.
    runs
        What to compute: one run, or several modules of one student, which then train in lock step.
    machine
        Gives the device; called only if a tensor is to be computed.
    say
        Told what is going on.
    ranks
        The processes that share the work.

    Raises
    ------
    InputError
        If the runs are not modules of one student, or the memory does not suffice.
    Interrupted
        After a signal.
    """
    check_together(runs)
    phase = importlib.import_module(f"m2mkd.training.phases.{runs[0].phase}")
    work = {run.id: Path(study.root) / "work" / run.id for run in runs}
    with ExitStack() as held:
        held.enter_context(SignalGuard(at_once=True))
        for run_id in sorted(work) if ranks.is_main else ():  # always in the same order, so that two jobs cannot wait for each other
            held.enter_context(exclusive(work[run_id], "snakemake", say))
        if runs[0].config.COMPUTES:
            machine()  # before anything else, for it fixes the number of threads
        held.enter_context(mirrored(study, runs))
        for slot in range(len(runs[0].config.replicates)):
            done = ranks.broadcast([(work[run.id] / str(slot) / RECORD).is_file() for run in runs])
            pending = [run for run, is_done in zip(runs, done, strict=True) if not is_done]
            started = time.time()
            jobs = [
                replace(job_of(study, run, slot, work[run.id] / str(slot), machine), usage=Usage(together=len(pending))) for run in pending
            ]
            with _memory_explained(study, runs[0], machine):
                outcomes = phase.run_together(jobs) if len(jobs) > 1 else [phase.run(job) for job in jobs]
            used = [job.usage.read(ranks) for job in jobs]
            if ranks.is_main:
                for run, job, outcome, its in zip(pending, jobs, outcomes, used, strict=True):
                    record_outputs(run, slot, job.work, outcome, started, its)
        if ranks.is_main:
            publish_outputs(study, runs, work)


def publish_outputs(study: Study, runs: Sequence[Run], work: Mapping[str, Path]) -> None:
    """Let the outputs of finished runs appear in their places, and remove the work folders, which are given by run."""
    for run in runs:
        for slot in range(len(run.config.replicates)):
            for output in study.outputs(run, slot):
                publish(work[run.id] / str(slot) / Path(output).name, Path(output))
    for folder in work.values():
        # Renamed first, so that a kill in the middle of the removal leaves no half work folder behind.
        done = folder.with_name(f".{folder.name}.done")
        shutil.rmtree(done, ignore_errors=True)
        shutil.rmtree(folder.rename(done))


def _memory_explained(study: Study, run: Run, machine: Callable[[], Machine]) -> AbstractContextManager[None]:
    """Where a batch is trained on: what to say if it does not fit."""
    if not run.config.DIVISIBLE:
        return nullcontext()
    from m2mkd.training.guards import memory_explained, out_of_memory

    def explain() -> str:
        from m2mkd.planning.cost import Assumptions, cost_of

        here = machine()
        batch: int = run.config.recipe.batch_size  # type: ignore[attr-defined]
        cost = cost_of(study, Assumptions(gpus=here.ranks.count, device_batch=here.device_batch, nac="model"))[run.id]
        return out_of_memory(run.id, batch // (here.ranks.count * here.accumulation(batch)), here.device, cost.memory.total)

    return memory_explained(explain)


def check_together(runs: Sequence[Run]) -> None:
    """Raise `InputError` unless the runs can be computed in one job."""
    students = [(run.config.model_dump(exclude={"index"}), run.upstream.get("meta")) for run in runs]
    of_one = runs[0].phase == "distill_module" and all(student == students[0] for student in students)
    if len(runs) > 1 and (not of_one or len({run.id for run in runs}) < len(runs)):
        names = " ".join(run.id for run in runs)
        raise InputError(f"{names}: not different modules of one student; compute each with a command of its own")


def job_of(study: Study, run: Run, slot: int, folder: Path, machine: Callable[[], Machine]) -> Job[Any]:
    """One replicate of a run as its phase sees it."""

    def folder_of(run_id: str) -> Path:
        return Path(study.folder(run_id)) / str(study.slot_of(study.runs[run_id], slot))

    upstream = {role: tuple(folder_of(run_id) for run_id in ids) for role, ids in run.upstream.items()}
    replicate = run.config.replicates[slot]
    return Job(run.config, replicate, upstream, folder, machine, f"{run.id} replicate {replicate}")


def record_outputs(run: Run, slot: int, folder: Path, outcome: Outcome, started: float, used: Mapping[str, float] | None = None) -> None:
    """Write the outputs of one replicate; its record comes last and marks it as finished.

    It notes when this session began, and what was used in all of them (`m2mkd.training.usage.Usage.read`); by default the time of this one.
    """
    ended = time.time()
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
            "provenance": provenance() | {"started": started, "ended": ended, "seconds": ended - started} | dict(used or {}),
        },
    )


def hardware() -> str:
    """Name of the GPU or, without one, of the processor."""
    # A phase that computes nothing has not imported torch, and need not for this.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


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
        "hardware": hardware(),
        "system": platform.system(),
        "ranks": Ranks.here().count,
        "container": inside.record(),
        "packages": {name: version(name) for name in ("m2mkd", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors")},
    }
