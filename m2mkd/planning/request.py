"""Resources that a job requests: GPUs, cores, host memory and wall-clock time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from m2mkd.errors import InputError
from m2mkd.planning.cost import FLOAT32, Assumptions, Cost, cost_of
from m2mkd.study.groups import in_lock_step, job_groups
from m2mkd.study.run import Run
from m2mkd.study.study import Study

START = 30
"""Minutes that a job gets in addition to its arithmetic: imports, weights, the first epoch of a cold cache."""
SLOWER = 2.0
"""Factor by which arithmetic may take longer than planned: the plan has neither decoding nor communication (docs/how-to/cost.md)."""
PROCESS = 6e9
"""Bytes of host memory per process: Python, the CUDA libraries, the batches in flight."""
LOADER = 1e9
"""Bytes of host memory per data-loading worker of a process."""


@dataclass(frozen=True)
class Terms:
    """Resources that a machine offers to every job."""

    assumptions: Assumptions
    """Assumptions of the plan, with ``gpus`` for a job that trains; a job that only measures uses one."""
    workers: int = 0
    """Data-loading workers of each computing process."""
    longest: float = 24.0
    """Hours that the machine lets a job run; it stops a longer job, which resumes when it is retried."""

    def __post_init__(self) -> None:
        if self.longest * 60 <= START:
            raise InputError(f"--longest {self.longest:g}: a job takes up to {START} minutes to start; give more hours, for example 24")


@dataclass(frozen=True)
class Request:
    """Resources that one job requests."""

    gpu: int
    """GPUs of one node, with a process on each."""
    threads: int
    """Cores: those that each process computes with, and one for each data-loading worker."""
    mem_mb: int
    """Host memory in megabytes."""
    runtime: int
    """Minutes."""


def request_of(runs: Sequence[Run], costs: Mapping[str, Cost], terms: Terms) -> Request:
    """Resources of one job that computes the given runs: one run, or several computed one after the other or in lock step.

    Parameters
    ----------
    runs
        At least one.
    costs
        Costs by run id, see `m2mkd.planning.cost.cost_of`.
    terms
        Terms of the machine.
    """
    config = runs[0].config
    gpus = terms.assumptions.gpus if config.DIVISIBLE else 1
    hours = sum(costs[run.id].gpu_hours for run in runs) / gpus
    # A checkpoint is copied before it is written, and read whole when a job resumes.
    held = {run.id: 2 * costs[run.id].checkpoint + FLOAT32 * costs[run.id].parameters for run in runs}
    kept = max(sum(held[run.id] for run in part) for part in in_lock_step(runs))
    return Request(
        gpu=gpus,
        threads=gpus * (config.threads + terms.workers),
        mem_mb=math.ceil((gpus * (PROCESS + terms.workers * LOADER) + kept) / 1e6),
        runtime=math.ceil(min(START + SLOWER * 60 * hours, 60 * terms.longest)),
    )


def requests(study: Study, terms: Terms) -> dict[str, dict[str, int]]:
    """Resources of every computing job of a study: by run id, or by the key of the first run if several share a job."""
    costs = cost_of(study, terms.assumptions)
    asked = {run.id: request_of([run], costs, terms) for run in study.runs.values() if not run.config.HEAD_NODE}
    asked |= {members[0].key: request_of(members, costs, terms) for members in job_groups(study)}
    return {name: asdict(request) for name, request in asked.items()}
