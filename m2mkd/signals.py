"""Signals that ask a job to stop after saving its state."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from m2mkd.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that ask a job to stop; a cluster can be configured to send SIGUSR1 some time before it ends the job."""


GLANCE = 0.2
"""Seconds between two checks for a signal."""


def heeding(wait: Callable[[], object]) -> None:
    """Make a call that may wait for long outside of Python, where signals are not handled, and handle signals meanwhile.

    The call is abandoned if a signal asks to stop, because the process then ends.
    """
    if threading.current_thread() is not threading.main_thread():
        wait()
        return
    failed: list[BaseException] = []

    def call() -> None:
        try:
            wait()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(GLANCE)
    if failed:
        raise failed[0]


class SignalGuard:
    """Context in which a first signal is only noted; a second one ends the process at once.

    Parameters
    ----------
    at_once
        True: the first signal already ends the process, because there is nothing to save.
    """

    def __init__(self, *, at_once: bool = False):
        self.at_once = at_once
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Self:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        else:
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.at_once or self.signal is not None:
            raise Interrupted(f"{name}; the same command resumes from the last checkpoint")
        self.signal = signal.Signals(number)


def leave_to_parent(_: int = 0) -> None:
    """Leave signals to the parent process: for a worker that loads data and must be told when to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(_: int = 0) -> None:
    """Leave signals to the parent process except SIGTERM, which ends this one: for a worker that the parent may drop without notice."""
    leave_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
