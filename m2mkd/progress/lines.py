"""Progress without a terminal: a line for each finished run, and one now and then while none finishes."""

import sys
from contextlib import suppress
from typing import IO

from m2mkd.errors import printable
from m2mkd.progress.durations import exact_duration, rough_duration
from m2mkd.progress.snapshot import EndedRun, FailedJob, RunningJob, Snapshot

QUIET_SECONDS = 60.0
"""Seconds after which a line says what runs, where no run has finished meanwhile."""


class PlainLines:
    """Writes snapshots as plain lines without any control character.

    Parameters
    ----------
    file
        Where to; by default the standard output.
    """

    def __init__(self, file: IO[str] | None = None):
        self._file = file or sys.stdout
        self._said, self._failures, self._stopping = 0.0, dict[str, int](), ""

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, snapshot: Snapshot, stopping: str = "") -> None:
        """Write what is new in a snapshot; ``stopping`` says that the study is being stopped, and how."""
        for line in snapshot.news:
            self._write(line)
        for number, run in enumerate(snapshot.ended, snapshot.done - len(snapshot.ended) + 1):
            self._write(_ended(run, number, snapshot), snapshot.elapsed)
        for job in snapshot.failed:
            if self._failures.get(job.log) != job.times:
                self._failures[job.log] = job.times
                self._write(_failed(job), snapshot.elapsed)
        if snapshot.running and snapshot.elapsed - self._said >= QUIET_SECONDS:
            self._write(f"{_count(snapshot.done, snapshot)}; running: {'; '.join(map(_running, snapshot.running))}", snapshot.elapsed)
        if stopping and not self._stopping:
            self._write(stopping)
        self._stopping = stopping

    def _write(self, line: str, elapsed: float | None = None) -> None:
        if elapsed is not None:
            self._said = elapsed
        with suppress(BrokenPipeError):  # whoever read it has left; the study goes on
            self._file.write(f"{printable(line)}\n")
            self._file.flush()


def _ended(run: EndedRun, number: int, snapshot: Snapshot) -> str:
    facts = [word for word in (None if run.seconds is None else exact_duration(run.seconds), run.measured.replace("  ", ", ")) if word]
    details = f" ({', '.join(facts)})" if facts else ""
    return f"{_count(number, snapshot)}: {run.title}{details}"


def _count(number: int, snapshot: Snapshot) -> str:
    left = "" if snapshot.left is None or number == snapshot.total else f", about {rough_duration(snapshot.left)} left"
    return f"{number} of {snapshot.total} runs{left}"


def _failed(job: FailedJob) -> str:
    return f"failed: {job.title}; log {job.log}: {job.last_line}"


def _running(job: RunningJob) -> str:
    return ", ".join(word for word in (job.title, job.position, job.measured.replace("  ", ", "), exact_duration(job.seconds)) if word)
