"""State of a study at one moment, as a display shows it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PhaseCount:
    """Progress of one phase, or of what is made before and after all phases."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class RunningJob:
    """A run, or another job, that is being computed."""

    title: str
    seconds: float
    """Time since it started."""
    position: str = ""
    """Epoch or update that it is at; empty where it has not said yet."""
    measured: str = ""
    """Loss and accuracy so far."""


@dataclass(frozen=True)
class FailedJob:
    """A job that failed, and has not succeeded since."""

    title: str
    log: str
    """Path of its log."""
    last_line: str
    """Last line of the log, printable."""
    times: int
    """Number of failures; Snakemake repeats a job that a signal or a lost machine stopped."""


@dataclass(frozen=True)
class EndedRun:
    """A run that has been computed since the last snapshot."""

    title: str
    seconds: float | None
    """Time that it took, over all sessions; none where its record does not say."""
    measured: str = ""
    """Its last loss and accuracy."""


@dataclass(frozen=True)
class Snapshot:
    """All that a display shows."""

    title: str
    """Title of the study."""
    done: int
    """Runs that are done."""
    total: int
    """All runs."""
    elapsed: float
    """Seconds since the command was started."""
    left: float | None
    """Seconds until all runs are done, estimated; none where nothing is known yet."""
    phases: tuple[PhaseCount, ...]
    """In the order of the flow."""
    running: tuple[RunningJob, ...]
    """The longest-running first."""
    failed: tuple[FailedJob, ...]
    ended: tuple[EndedRun, ...]
    news: tuple[str, ...]
    """Lines that planning printed since the last snapshot."""
    planned: bool
    """True once Snakemake has planned its jobs."""
