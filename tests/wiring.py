"""Jobs with a store in memory, runs as they are planned, and machines that are none: phases are tested through what they are given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from m2mkd.study.data import Data
from m2mkd.study.files import PlannedRun, planned_runs
from m2mkd.study.phase import Phase
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from m2mkd.training import job as jobs
from m2mkd.training.job import Job, Outcome, PhaseCode
from m2mkd.training.machine import Machine
from m2mkd.training.phases import common
from m2mkd.training.task import Task
from tests.fabricated import pretend_data
from tests.tiny import State, TinyPack, noise

CPU = Machine(torch.device("cpu"))

Upstream = Mapping[str, Sequence[State]]
"""Weights that a job builds on, by role."""


@dataclass
class MemoryStore:
    """Stands in for what other runs have published and for prepared sets."""

    states: Mapping[str, State] = field(default_factory=dict)
    """Weights by name of their folder."""
    packs: Callable[[Data], Any] = lambda data: TinyPack(noise(16, data.image_size))

    def pack(self, data: Data) -> Any:
        return self.packs(data)

    def weights(self, folder: Path) -> State:
        return self.states[folder.name]

    def modules(self, folders: Sequence[Path], indices: Iterable[int]) -> dict[int, State]:
        return {index: self.states[folder.name] for folder, index in zip(folders, indices, strict=True)}


def job_with(
    config: Phase, upstream: Upstream | None = None, *, packs: Any = None, work: Path | str = "work", machine: Any = CPU
) -> Job[Any]:
    """A job that finds given weights, and noise unless it is given other sets."""
    states, folders = {}, {}
    for role, given in (upstream or {}).items():
        named = {f"{role}{number}": state for number, state in enumerate(given)}
        states |= named
        folders[role] = tuple(map(Path, named))
    store = MemoryStore(states, packs) if packs else MemoryStore(states)
    return Job(config, folders, Path(work), lambda: machine, "test", store=store)


def run_phase(job: Job[Any]) -> Outcome:
    """What the job's phase makes of it."""
    return import_module(f"m2mkd.training.phases.{job.config.phase}").run(job)


def wired(monkeypatch: pytest.MonkeyPatch, *wired_jobs: Job[Any]) -> tuple[list[Task], list[Outcome]]:
    """The tasks that phases would train, and their outcomes without a single step."""
    tasks: list[Task] = []

    def fit(trainees: Sequence[Any], *_: Any) -> list[dict[str, float]]:
        tasks.extend(trainee.task for trainee in trainees)
        return [{} for _ in trainees]

    monkeypatch.setattr(common, "fit", fit)
    return tasks, [run_phase(job) for job in wired_jobs]


def plan_of(study: Study, *runs: Run) -> list[PlannedRun]:
    """Runs as their jobs see them."""
    planned = planned_runs(study)
    return [planned[run.id] for run in runs]


def execute(study: Study, *runs: Run, machine: Callable[[], Any] = lambda: None, code: PhaseCode | None = None) -> None:
    """Compute runs in one job; where ``code`` does that in the place of their phase, it is pretended that their data is there."""
    for run in runs if code else ():
        pretend_data(run.config)
    jobs.execute(plan_of(study, *runs), machine, print, code=code)


@dataclass
class Pretended:
    """What computes runs in the place of a phase."""

    compute: Callable[[Job[Any]], Outcome]
    seen: list[list[Job[Any]]] = field(default_factory=list)
    """Jobs that were computed together."""

    def run(self, job: Job[Any]) -> Outcome:
        return self.run_together([job])[0]

    def run_together(self, group: Sequence[Job[Any]]) -> list[Outcome]:
        self.seen.append(list(group))
        return [self.compute(job) for job in group]
