"""Processes that read untrusted files, so that a parser can be attacked only there, with bounded memory and time."""

import os
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, get_context, parent_process
from pathlib import Path
from typing import TypeVar

from m2mkd.errors import InputError

READ_MEMORY = 1 << 31
"""Bytes that a reader may use in addition to its libraries; an image of the maximum size takes half of that."""
READ_MEMORY_SHARE = 32
"""Bytes of source files per additional byte of memory: their lists of files are kept in memory."""
READ_SECONDS = 20
"""CPU seconds that one read may take, whatever the size of the files."""
BYTES_PER_SECOND = 5 << 20
"""Bytes of source files per additional second; the slowest decompression is faster."""
READ_ITEMS = 64
"""Files that a process works on at a time."""
READ_ITEMS_SECONDS = 128.0

Result = TypeVar("Result")
Item = TypeVar("Item")


class Readers:
    """Pool of reader processes for the source files of one data set."""

    def __init__(self, pool: ProcessPoolExecutor, processes: int, files: Sequence[Path], seconds: float = READ_SECONDS):
        self._pool, self._files = pool, files
        self._ahead = 2 * processes
        self._seconds = seconds + _bytes(files) / BYTES_PER_SECOND

    def read(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Return the result of a function that reads source files.

        Raises
        ------
        InputError
            If the reading process ends: from lack of memory or time, or because its parser crashes.
        Exception
            Any exception of the function.
        """
        with self._survived():
            try:
                return self._pool.submit(_timed, partial(function, *arguments), self._seconds).result()
            except KeyboardInterrupt:
                for process in self._pool._processes.values():  # which ignore it, and may read for a long time
                    process.terminate()
                raise

    def in_order(self, function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> Iterator[Result]:
        """Results of several items at a time, in order, only as far ahead as memory allows; raises as `read`."""
        waiting: deque[Future[list[Result]]] = deque()
        try:
            for start in range(0, len(items), READ_ITEMS):
                if len(waiting) == self._ahead:
                    yield from self._result(waiting.popleft())
                waiting.append(self._pool.submit(_timed, partial(function, items[start : start + READ_ITEMS]), READ_ITEMS_SECONDS))
            while waiting:
                yield from self._result(waiting.popleft())
        finally:
            for task in waiting:
                task.cancel()

    def _result(self, task: Future[list[Result]]) -> list[Result]:
        with self._survived():
            return task.result()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        try:
            yield
        except (BrokenProcessPool, MemoryError):
            names = ", ".join(str(file) for file in self._files)
            reason = "took more memory or time than such files need, or crashed the reader"
            raise InputError(f"{names}: its content {reason}; fetch the original, or give this command more memory") from None


@contextmanager
def reading(
    processes: int, files: Sequence[Path], mapped: bool = False, *, memory: int = READ_MEMORY, seconds: float = READ_SECONDS
) -> Iterator[Readers]:
    """Context with processes that read source files.

    Parameters
    ----------
    processes
        Maximum number of processes.
    files
        Files that they read.
    mapped
        True if the files are mapped into memory, one at a time.
    memory, seconds
        Bytes and CPU seconds that a process may take for files of zero bytes.
    """
    memory += _bytes(files) // READ_MEMORY_SHARE + (max(map(_size, files), default=0) if mapped else 0)
    _start_server()
    with ProcessPoolExecutor(processes, get_context("forkserver"), _begin, (memory,)) as pool:
        yield Readers(pool, processes, files, seconds)


def _bytes(files: Sequence[Path]) -> int:
    return sum(map(_size, files))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _timed(function: Callable[[], Result], seconds: float) -> Result:
    """Call a function; if it exceeds the CPU time, the process ends, even inside a parser that is not Python."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _start_server() -> None:
    """Start the process that others are forked from, which makes them ignore Ctrl-C: a pool that lost a process may wait for ever."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)


def _begin(memory: int) -> None:
    """Limit the resources of this process, and end it with its parent: while waiting for work, it would never notice."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each of its threads reserves memory, even when idle
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in ((resource.RLIMIT_AS, used + memory), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
