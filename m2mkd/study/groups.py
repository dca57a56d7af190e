"""Runs that one job computes together, because starting a job may cost more than its work. Results and keys do not depend on this."""

from collections.abc import Collection, Sequence
from typing import TypeVar

from m2mkd.errors import InputError
from m2mkd.study.keys import digest
from m2mkd.study.run import Run
from m2mkd.study.state import is_done
from m2mkd.study.study import Study

T = TypeVar("T")


def job_groups(study: Study, again: Collection[str] = ()) -> list[list[Run]]:
    """Unfinished runs that one job computes: ``seeds_per_job`` of one student and, in lock step, ``modules_per_job``.

    Finished runs are left out unless they are computed ``again``, so that a run whose input was lost is redone alone.
    """
    alike: dict[str, list[Run]] = {}
    seedless = SeedlessKeys(study)
    for run in study.runs.values():
        if (run.seed is not None or run.config.LOCK_STEP) and (run.id in again or not is_done(study, run)):
            alike.setdefault(seedless.key(run), []).append(run)
    groups = []
    for runs in alike.values():
        for seeds in _chunks(sorted({run.seed or 0 for run in runs}), study.scale.seeds_per_job):
            for indices in _chunks(sorted({index_of(run) for run in runs}), study.scale.modules_per_job):
                groups.append([run for run in runs if (run.seed or 0) in seeds and index_of(run) in indices])
    return [sorted(group, key=lambda run: (run.seed or 0, index_of(run))) for group in groups if len(group) > 1]


class SeedlessKeys:
    """Keys of runs without their seeds and, where modules train in lock step, without the module."""

    def __init__(self, study: Study):
        self.study, self.known = study, dict[str, str]()

    def key(self, run: Run) -> str:
        """Value that is equal for runs that differ only in the seed, or in the module of one student."""
        if run.id not in self.known:
            modules = run.config.LOCK_STEP
            # Each module has its own teacher module, too.
            roles = {role: ids for role, ids in run.upstream.items() if not (modules and role == "teacher_module")}
            upstream = {role: [self.key(self.study.runs[run_id]) for run_id in ids] for role, ids in roles.items()}
            left_out = {"seed", "index"} if modules else {"seed"}
            self.known[run.id] = digest([run.phase, run.config.model_dump(mode="json", exclude=left_out), upstream])
        return self.known[run.id]


def index_of(run: Run) -> int:
    """Number of the module that a run is about; 0 if it is not about a module."""
    return getattr(run.config, "index", None) or 0


def in_lock_step(runs: Sequence[Run]) -> list[list[Run]]:
    """Split the runs of one job into parts that train together: the modules of one seed, or single runs.

    Single runs may build on different runs: several variants of a student are evaluated in one configuration.

    Raises
    ------
    InputError
        If their configurations differ in more than seed and module, or modules have different meta models.
    """
    first = runs[0]
    left_out = {"seed", "index"} if first.config.LOCK_STEP else {"seed"}

    def kind(run: Run) -> tuple[str, object, object]:
        return run.phase, run.config.model_dump(exclude=left_out), run.upstream.get("meta") if run.config.LOCK_STEP else None

    alike = all(kind(run) == kind(first) for run in runs)
    if not alike or len({run.id for run in runs}) < len(runs):
        names = " ".join(run.id for run in runs)
        raise InputError(f"{names}: differ in more than the seed or module of one student; compute each with its own command")
    if not first.config.LOCK_STEP:
        return [[run] for run in runs]
    return [[run for run in runs if run.seed == seed] for seed in dict.fromkeys(run.seed for run in runs)]


def _chunks(values: list[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(values[first : first + size]) for first in range(0, len(values), size)]
