"""Following a Snakemake to its end: look, show, wait, about once a second."""

import subprocess
from dataclasses import replace
from typing import Protocol

import psutil
from rich.console import Console

from m2mkd.progress.disk import StudyOnDisk
from m2mkd.progress.lines import PlainLines
from m2mkd.progress.screen import Screen
from m2mkd.progress.snapshot import FailedJob, Snapshot
from m2mkd.progress.stopping import Stop, ask_to_stop, end_at_once

WAIT_SECONDS = 0.2
"""Seconds between two waits for the end of Snakemake, a signal, or a terminal of another size."""
WAITS_A_LOOK = 5
"""Waits between two looks at the study."""


class Display(Protocol):
    """What snapshots are shown on."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, snapshot: Snapshot, stopping: str = "") -> None: ...


def display_for(console: Console) -> Display:
    """The live display in a terminal, plain lines elsewhere."""
    return Screen(console) if console.is_terminal and not console.is_dumb_terminal else PlainLines(console.file)


def follow(process: "subprocess.Popen[bytes]", disk: StudyOnDisk, display: Display, console: Console, stop: Stop) -> Snapshot:
    """Show a study until the Snakemake that computes it has ended.

    Parameters
    ----------
    process
        Snakemake.
    disk
        The study that it computes.
    display
        Shows it.
    console
        Tells its size.
    stop
        Notes signals: the first stops the study, so that it can be resumed; a second one ends it at once.

    Returns
    -------
    Snapshot
        The last one.
    """
    snakemake, heeded = psutil.Process(process.pid), 0
    failed: tuple[FailedJob, ...] = ()
    with display:
        while True:
            snapshot, size = disk.look(), console.size
            if stop.signals:  # jobs that end now were asked to
                snapshot = replace(snapshot, failed=failed)
            failed = snapshot.failed
            display.show(snapshot, stop.words)
            shown = replace(snapshot, news=(), ended=())
            for _ in range(WAITS_A_LOOK):
                try:
                    process.wait(WAIT_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
                else:
                    last = disk.look()
                    display.show(replace(last, failed=failed) if stop.signals else last, stop.words)
                    return last
                if len(stop.signals) > heeded:
                    heeded = len(stop.signals)
                    display.show(shown, stop.words)
                    if heeded == 1:
                        ask_to_stop(snakemake, stop.signals[0])
                    else:
                        end_at_once(snakemake)
                elif console.size != size:
                    size = console.size
                    display.show(shown, stop.words)
