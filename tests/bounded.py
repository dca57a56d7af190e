"""What reads files of strangers does so in little memory and time."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HANGS = 300.0
"""Seconds on the clock after which something waits for what never comes; a busy machine may be as slow as it likes before."""


def _too_long(*_: object) -> None:
    raise AssertionError("it takes too long")


@contextmanager
def bounded(memory: int = 2**30, seconds: float = 20) -> Iterator[None]:
    """Give this process so much more memory, in bytes, and so many seconds of processors; what waits is woken up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = {number: signal.signal(number, _too_long) for number in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)
