"""What a job asks of the machine that it is sent to: GPUs, cores, host memory and time on the clock."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from m2mkd.errors import InputError
from m2mkd.planning.cost import FLOAT32, Assumptions, Cost, cost_of
from m2mkd.study.groups import in_lock_step, job_groups
from m2mkd.study.run import Run
from m2mkd.study.study import Study

START = 30
"""Minutes that a job gets beside its arithmetic: imports, weights, the first epoch of a cold cache."""
SLOWER = 2.0
"""Times that the arithmetic may take longer than planned: neither decoding nor communication is in it (docs/how-to/cost.md)."""
PROCESS = 6e9
"""Bytes of host memory that a process gets: Python, the libraries of CUDA, the batches on their way."""
LOADER = 1e9
"""Bytes of host memory that a process gets for each that loads data beside it."""


@dataclass(frozen=True)
class Terms:
    """What a machine offers to every job."""

    assumptions: Assumptions
    """With ``gpus`` for a job that trains; one that only measures takes one."""
    workers: int = 0
    """Processes that load data beside each that computes."""
    longest: float = 24.0
    """Hours that it lets a job run; a longer one is stopped there, and goes on when it is retried."""

    def __post_init__(self) -> None:
        if self.longest * 60 <= START:
            raise InputError(f"--longest {self.longest:g}: a job takes up to {START} minutes to start; give hours, for example 24")


@dataclass(frozen=True)
class Request:
    """What one job asks for."""

    gpu: int
    """Of one node, with a process on each."""
    threads: int
    """Cores: those that each process computes with, and one for each that loads data."""
    mem_mb: int
    """Host memory in megabytes."""
    runtime: int
    """Minutes."""


def request_of(runs: Sequence[Run], costs: Mapping[str, Cost], terms: Terms) -> Request:
    """What one job that computes those runs asks for: one run, or several that it computes one after the other or in lock step.

    Parameters
    ----------
    runs
        At least one.
    costs
        By run id, see `m2mkd.planning.cost.cost_of`.
    terms
        Of the machine.
    """
    config = runs[0].config
    gpus = terms.assumptions.gpus if config.DIVISIBLE else 1
    hours = sum(costs[run.id].gpu_hours for run in runs) / gpus
    # A checkpoint is copied before it is written, and read whole when a job goes on.
    held = {run.id: 2 * costs[run.id].checkpoint + FLOAT32 * costs[run.id].parameters for run in runs}
    kept = max(sum(held[run.id] for run in part) for part in in_lock_step(runs))
    return Request(
        gpu=gpus,
        threads=gpus * (config.threads + terms.workers),
        mem_mb=math.ceil((gpus * (PROCESS + terms.workers * LOADER) + kept) / 1e6),
        runtime=math.ceil(min(START + SLOWER * 60 * hours, 60 * terms.longest)),
    )


def requests(study: Study, terms: Terms) -> dict[str, dict[str, int]]:
    """What every job of a study that computes asks for: by run id, and for runs that share a job by the key of the first."""
    costs = cost_of(study, terms.assumptions)
    asked = {run.id: request_of([run], costs, terms) for run in study.runs.values() if not run.config.HEAD_NODE}
    asked |= {members[0].key: request_of(members, costs, terms) for members in job_groups(study)}
    return {name: asdict(request) for name, request in asked.items()}
