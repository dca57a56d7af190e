"""Job: runs that differ in seed or module alone, from the lock on their work folders to the published outputs."""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from m2mkd.containers import inside
from m2mkd.files import publish, sha256, write_json
from m2mkd.models.weights import save_weights
from m2mkd.processes import exclusive
from m2mkd.ranks import ALONE, Ranks
from m2mkd.signals import SignalGuard
from m2mkd.study.data import Data
from m2mkd.study.files import PlannedRun
from m2mkd.study.groups import in_lock_step
from m2mkd.study.keys import sealed
from m2mkd.study.phase import LOGITS, METRICS, PHASES, RECORD, Phase
from m2mkd.study.run import Run
from m2mkd.study.state import set_normal
from m2mkd.study.whole import kept_folder
from m2mkd.tracking.live import mirrored
from m2mkd.training.machine import Machine
from m2mkd.training.origins import begun_from, counts, origins_of
from m2mkd.training.store import PUBLISHED_FILES, JobStore
from m2mkd.training.usage import Usage

if TYPE_CHECKING:
    from torch import Tensor

    from m2mkd.data.pack import Pack
    from m2mkd.evaluation.logits import KeptLogits

P = TypeVar("P", bound=Phase)


@dataclass(frozen=True)
class Job(Generic[P]):
    """Run as its phase sees it."""

    config: P
    upstream: dict[str, tuple[Path, ...]]
    """Output folders that it builds on, by role."""
    work: Path
    """Folder for checkpoints; survives an interruption."""
    machine: Callable[[], Machine]
    """Returns the device; loads torch at the first call."""
    title: str
    usage: Usage = field(default_factory=Usage)
    """Time, memory and energy used by it."""
    store: JobStore = PUBLISHED_FILES
    """Source of data sets and weights."""

    @property
    def seed(self) -> int:
        """Seed of the run's random draws; 0 if all seeds share the run."""
        return getattr(self.config, "seed", 0)

    def pack(self, data: Data) -> "Pack":
        """Checked prepared set."""
        return self.store.pack(data)

    def weights(self, role: str) -> "dict[str, Tensor]":
        """Weights of the single run that it builds on in the given role."""
        (folder,) = self.upstream[role]
        return self.store.weights(folder)

    def modules(self, role: str, indices: Iterable[int]) -> "dict[int, dict[str, Tensor]]":
        """Modules that it builds on in the given role, by module number."""
        return self.store.modules(self.upstream[role], indices)


@dataclass(frozen=True)
class Outcome:
    """Result of a phase."""

    metrics: dict[str, Any]
    """Final measurements, for ``metrics.json``."""
    weights: "Mapping[str, Tensor] | None" = None
    logits: "KeptLogits | None" = None
    """Outputs of the measured network, of a phase that keeps them."""


class PhaseCode(Protocol):
    """Implementation of a phase, as a module of `m2mkd.training.phases`; phases of modules also have ``run_together``."""

    def run(self, job: Job[Any], /) -> Outcome: ...


def execute(
    planned: Sequence[PlannedRun],
    machine: Callable[[], Machine],
    say: Callable[[str], object],
    ranks: Ranks = ALONE,
    *,
    code: PhaseCode | None = None,
) -> None:
    """Compute runs and publish the outputs of all of them at the end.

    Finished runs wait in the work folder, so that an interruption costs only the steps since the last checkpoint; a published
    output is always complete. All ranks compute, and the first one writes.

    Parameters
    ----------
    planned
        Runs to compute: one, or several that differ in seed and module alone. Modules of one seed train in lock step.
    machine
        Returns the device; called only if a tensor is to be computed.
    say
        Function that reports progress.
    ranks
        Processes that share the work.
    code
        Implementation of the phase; by default that of the runs' phase.

    Raises
    ------
    InputError
        If the runs do not belong together, or there is too little memory.
    Interrupted
        After a signal.
    """
    by_id = {one.run.id: one for one in planned}
    parts = in_lock_step([one.run for one in planned])
    first = planned[0].run
    phase: Any = code or importlib.import_module(f"m2mkd.training.phases.{first.phase}")
    with ExitStack() as held:
        held.enter_context(SignalGuard(at_once=True))
        for run_id in sorted(by_id) if ranks.is_main else ():  # always in the same order, so that two jobs cannot wait for each other
            held.enter_context(exclusive(by_id[run_id].work, "snakemake", say))
        if not first.config.HEAD_NODE:
            machine()  # before anything else, because it fixes the number of threads
        held.enter_context(mirrored(planned))
        origins: dict[str, dict[str, Any]] = {}
        if ranks.is_main:
            origins = {one.run.id: begun_from(one, say) for one in planned}
        published = ranks.broadcast([one.run.id for one in planned if counts(one, one.folder)] if ranks.is_main else [])
        if ranks.is_main:
            set_normal(file for one in planned for file in [*inputs_of(one), one.redo_mark])
            for run_id in published:
                say(f"{run_id} is already complete")
        for part in parts:
            waiting = [run.id in published or _waits(by_id[run.id], say) for run in part] if ranks.is_main else []
            done = ranks.broadcast(waiting)
            pending = [by_id[run.id] for run, is_done in zip(part, done, strict=True) if not is_done]
            started = time.time()
            jobs = [job_of(one, machine, together=len(pending)) for one in pending]
            with _memory_explained(first, machine):
                outcomes = phase.run_together(jobs) if len(jobs) > 1 else [phase.run(job) for job in jobs]
            used = [job.usage.read(ranks) for job in jobs]
            if ranks.is_main:
                for one, outcome, its in zip(pending, outcomes, used, strict=True):
                    record_outputs(one.run, one.work, outcome, started, its, origins=origins[one.run.id])
        if ranks.is_main:
            publish_outputs([one for one in planned if one.run.id not in published])
            for run_id in published:  # remains of a process that was killed after publishing
                shutil.rmtree(by_id[run_id].work, ignore_errors=True)


def inputs_of(planned: PlannedRun) -> list[Path]:
    """Files that Snakemake compares a run's outputs with: outputs of the runs that it builds on, and manifests of its data sets."""
    upstream = [planned.root / "runs" / run_id for run_id in planned.run.parents]
    named = {run_id: PHASES[run_id.partition("/")[0]].OUTPUTS for run_id in planned.run.parents}
    files = [folder / name for folder, names in zip(upstream, named.values(), strict=True) for name in names]
    return files + [Path(data.folder, "manifest.json") for data in planned.run.config.data_sets]


def _waits(planned: PlannedRun, say: Callable[[str], object]) -> bool:
    """True if a run was computed and only has to be published, perhaps again because Snakemake removed outputs of an unfinished job."""
    work, run = planned.work, planned.run
    if not counts(planned, work):
        kept = kept_folder(work)
        if not counts(planned, kept):
            (work / RECORD).unlink(missing_ok=True)  # the recorded outputs have been damaged since
            return False
        shutil.rmtree(work, ignore_errors=True)
        kept.rename(work)
    say(f"{run.id} was computed before, and is now published")
    return True


def publish_outputs(planned: Sequence[PlannedRun]) -> None:
    """Publish the outputs of finished runs to their folders, and remove the rest of the work folders."""
    for one in planned:
        for name in (*(kept for kept in one.run.config.KEPT if (one.work / kept).is_file()), *one.run.config.OUTPUTS):
            publish(one.work / name, one.folder / name)
        set_normal(one.folder / name for name in one.run.config.OUTPUTS)
    for one in planned:
        # Renamed first, so that a kill during the removal leaves no incomplete work folder.
        kept = kept_folder(one.work)
        shutil.rmtree(kept, ignore_errors=True)
        for path in one.work.rename(kept).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (*one.run.config.KEPT, *one.run.config.OUTPUTS):
                path.unlink()


def _memory_explained(run: Run, machine: Callable[[], Machine]) -> AbstractContextManager[None]:
    """Context that reports what did not fit, for runs that train on batches."""
    if not run.config.DIVISIBLE:
        return nullcontext()
    from m2mkd.training.guards import memory_explained, out_of_memory

    def explain() -> str:
        from m2mkd.planning.cost import Assumptions, run_cost
        from m2mkd.planning.work import work_of

        here = machine()
        recipe = run.config.recipe  # type: ignore[attr-defined]
        batch: int = recipe.batch_size
        given = Assumptions(gpus=here.ranks.count, device_batch=here.device_batch, nac="model")
        cost = run_cost(work_of(run.config, given.nac), given)
        return out_of_memory(
            run.id, batch // (here.ranks.count * here.accumulation(batch, recipe.TOGETHER)), here.device, cost.memory.total
        )

    return memory_explained(explain)


def job_of(planned: PlannedRun, machine: Callable[[], Machine], *, together: int = 1) -> Job[Any]:
    """Run as its phase sees it, one of several that train together."""
    run, runs = planned.run, planned.root / "runs"
    upstream = {role: tuple(runs / run_id for run_id in ids) for role, ids in run.upstream.items()}
    title = run.id if run.seed is None else f"{run.id} seed {run.seed}"
    return Job(run.config, upstream, planned.work, machine, title, Usage(together=together))


def record_outputs(
    run: Run,
    folder: Path,
    outcome: Outcome,
    started: float,
    used: Mapping[str, float] | None = None,
    *,
    computed: Mapping[str, Any] | None = None,
    origins: Mapping[str, Any] | None = None,
) -> None:
    """Write the outputs of a run; its record comes last and marks it as finished.

    The record notes the start of this session, the usage of all sessions (`m2mkd.training.usage.Usage.read`; by default the time of this
    one), the environment of the computation (`provenance`; by default the current one), and code, data and inputs at the start of the run
    (`m2mkd.training.origins.begun_from`; by default the current ones).
    """
    ended = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [name for name in run.config.OUTPUTS if name != RECORD]
    if outcome.weights is not None:
        save_weights(folder, outcome.weights, run.id)
    if METRICS in outputs:
        write_json(folder / METRICS, outcome.metrics)
    kept: dict[str, Any] = {}
    if outcome.logits is not None:
        outcome.logits.save(folder / LOGITS)
        kept = {"kept": {LOGITS: sha256(folder / LOGITS)}}
    content = {
        "id": run.id,
        "phase": run.phase,
        "key": run.key,
        "seed": run.seed,
        **run.content,
        "outputs": {name: sha256(folder / name) for name in outputs},
        **kept,
        **(origins or origins_of(run, folder.parents[1])),
        "provenance": {**(computed or provenance()), "started": started, "ended": ended, "seconds": ended - started, **(used or {})},
    }
    write_json(folder / RECORD, sealed(content))


def hardware() -> str:
    """Name of the GPU or, without one, of the processor."""
    # A phase that computes nothing has not imported torch, and does not need to for this.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Output of git about the project, independent of an enclosing git hook, the owner of the files and the user's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options = ["-c", f"safe.directory={Path.cwd()}", "-c", "core.fsmonitor=false", "-c", "core.quotePath=true"]
    try:
        return subprocess.run(["git", *options, *arguments], env=environment, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance() -> dict[str, Any]:
    """Environment of a computation: recorded, but not part of any key."""
    top = _git("rev-parse", "--show-toplevel")
    own = bool(top) and Path(str(top)).samefile(".")  # an archive unpacked inside another repository has no commit
    status = _git("status", "--porcelain", "--untracked-files=no") if own else None
    return {
        "git_commit": _git("rev-parse", "HEAD") if own else None,
        "git_dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "hardware": hardware(),
        "system": platform.system(),
        "ranks": Ranks.here().count,
        "container": inside.record(),
        "packages": {name: version(name) for name in ("m2mkd", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors")},
    }
