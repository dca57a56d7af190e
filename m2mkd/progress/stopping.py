"""Stopping a study that a signal interrupts, so that jobs save their state and Snakemake leaves nothing locked."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from m2mkd.processes import end_tree

HEEDED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Signals that asked the study to stop, in their order."""

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within it, signals are noted and do nothing else."""
        before = {number: signal.signal(number, self._note) for number in HEEDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signals.append(signal.Signals(number))

    @property
    def words(self) -> str:
        """How the study is being stopped; empty where no signal came."""
        return "stopping: running jobs save their state; Ctrl-C again ends them at once" if self.signals else ""


def ask_to_stop(snakemake: psutil.Process, received: signal.Signals) -> None:
    """Let the jobs of a Snakemake save their state and end, and start no others.

    Ctrl-C in a terminal has reached all of them already, and a second signal would keep a job from saving.

    Parameters
    ----------
    snakemake
        The process.
    received
        What this process received.
    """
    if received == signal.SIGINT and _in_foreground():
        return
    with suppress(psutil.Error):
        jobs = [child for child in snakemake.children(recursive=True) if _is_job(child)]
        snakemake.terminate()  # it waits for its jobs
        for job in jobs:
            with suppress(psutil.Error):
                job.terminate()


def end_at_once(snakemake: psutil.Process) -> None:
    """End a Snakemake and its jobs, whatever they do."""
    end_tree(snakemake)


def die_of(received: signal.Signals) -> None:
    """End this process as the signal would have, once everything is tidied up."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(received, signal.SIG_DFL)
    os.kill(os.getpid(), received)


def _in_foreground() -> bool:
    """True if this process belongs to the group that a terminal sends Ctrl-C to."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _is_job(process: psutil.Process) -> bool:
    """True for ``m2mkd`` itself, not for the shells and Snakemakes that started it."""
    try:
        return any(Path(word).name == "m2mkd" for word in process.cmdline()[:2])
    except psutil.Error:
        return False
