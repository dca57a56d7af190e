"""Signals that ask a job to stop: the state is saved first."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from m2mkd.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What asks a job to stop; SIGUSR1 is what a cluster can be told to send some time before it takes the machine away."""


GLANCE = 0.2
"""Seconds between two looks for a signal."""


def heeding(wait: Callable[[], object]) -> None:
    """Make a call that may wait long outside of Python, where no signal is handled, and handle signals meanwhile.

    What was waited for is given up then: whoever a signal asked to stop ends.
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
    """Within it, a first signal is only noted; a second one ends the process at once.

    Parameters
    ----------
    at_once
        End the process at the first signal already, where there is nothing to save.
    """

    def __init__(self, *, at_once: bool = False):
        self.at_once = at_once
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Self:
        # Python lets no other thread handle signals.
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
            raise Interrupted(f"{name}; the same command goes on from the last checkpoint")
        self.signal = signal.Signals(number)


def leave_to_parent(_: int = 0) -> None:
    """Leave it to the process that started this one to stop it: for one that loads data and must be told when to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(_: int = 0) -> None:
    """The same, but SIGTERM ends it: for one that the parent may drop without a word."""
    leave_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
