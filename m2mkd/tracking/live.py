"""Mirroring of trainings to MLflow while they run, if ``MLFLOW_TRACKING_URI`` is set.

A process of its own follows the ``metrics.jsonl`` of a job (:mod:`m2mkd.tracking.mlflow_mirror`). It runs only when a core is idle, and the
training neither waits for it nor fails with it. ``m2mkd track sync`` brings what it missed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m2mkd.ranks import Ranks
from m2mkd.study.files import PlannedRun
from m2mkd.study.phase import CURVES
from m2mkd.tracking.address import URI_VARIABLE

SECONDS = 2.0
"""Seconds between two looks at the files."""


@contextmanager
def mirrored(planned: Sequence[PlannedRun]) -> Iterator[None]:
    """Mirror the learning curves of some runs while the body runs, and send the rest shortly after.

    Without ``MLFLOW_TRACKING_URI``, on all but the first of several ranks, and for runs that train nothing, it does nothing.
    """
    mirror = _start(planned) if os.environ.get(URI_VARIABLE) and Ranks.here().is_main else None
    try:
        yield
    finally:
        if mirror is not None and mirror.stdin is not None:
            # Processes that load data may hold the pipe too, so that closing it is not enough to tell the end. The mirror may be gone.
            with suppress(OSError):
                mirror.stdin.write(b".")
                mirror.stdin.close()


def _start(planned: Sequence[PlannedRun]) -> "subprocess.Popen[bytes] | None":
    try:
        followed = [order_of(one) for one in planned if CURVES in one.run.config.OUTPUTS]
        if not followed:
            return None
        order = {"experiment": f"m2mkd/{planned[0].scale_name}", "seconds": SECONDS, "runs": followed}
        # A file without a name: a pipe would block this process until the other has read it.
        with tempfile.TemporaryFile("w+") as file:
            json.dump(order, file)
            file.seek(0)
            command = [sys.executable, "-m", "m2mkd.tracking.mlflow_mirror", str(file.fileno())]
            # A group of its own, which Ctrl-C does not reach, but the same session: Linux shares a core out among sessions first, and in
            # one of its own it would get as much as the training, however idle its priority.
            return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[file.fileno()], process_group=0)
    except Exception as error:
        sys.stderr.write(f"tracking: not mirrored to MLflow ({error}); the training continues, and 'm2mkd track sync' brings its curves\n")
        return None


def order_of(planned: PlannedRun) -> dict[str, Any]:
    """Order for the other process to follow one run."""
    from m2mkd.tracking.entry import run_entry

    work, published = planned.work / CURVES, planned.folder / CURVES
    return {"entry": asdict(run_entry(planned, {})), "work": str(work), "published": str(published), "stamp": stamp_of(work)}


def stamp_of(path: Path) -> list[int] | None:
    """Size and time of a file, which change when it is written to; none if it does not exist."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return [state.st_size, state.st_mtime_ns]
