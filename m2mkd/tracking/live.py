"""Mirroring trainings to MLflow while they run, where ``MLFLOW_TRACKING_URI`` says so.

A process of its own follows the ``metrics.jsonl`` of a job (:mod:`m2mkd.tracking.mlflow_mirror`). It runs only when a core is idle, and the
training neither waits for it nor hears of its troubles. What it misses, ``m2mkd track sync`` brings.
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

from m2mkd.study.phases import CURVES
from m2mkd.study.study import Run, Study
from m2mkd.tracking.address import URI_VARIABLE

SECONDS = 2.0
"""Between two looks at the files."""


@contextmanager
def mirrored(study: Study, runs: Sequence[Run]) -> Iterator[None]:
    """Mirror the learning curves of some runs of a study for as long as the body takes, and whatever it left unsaid shortly after.

    Without ``MLFLOW_TRACKING_URI``, on all but the first of several ranks, and for runs that train nothing, it does nothing.
    """
    follower = _start(study, runs) if os.environ.get(URI_VARIABLE) and os.environ.get("RANK", "0") == "0" else None
    try:
        yield
    finally:
        if follower is not None and follower.stdin is not None:
            # That was all. Processes that load data may hold the pipe too, so that closing it is not enough; the other may be gone.
            with suppress(OSError):
                follower.stdin.write(b".")
                follower.stdin.close()


def _start(study: Study, runs: Sequence[Run]) -> "subprocess.Popen[bytes] | None":
    try:
        followed = [
            order_of(study, run, slot) for run in runs if CURVES in run.config.OUTPUTS for slot in range(len(run.config.replicates))
        ]
        if not followed:
            return None
        order = {"experiment": f"m2mkd/{study.scale_name}", "seconds": SECONDS, "runs": followed}
        # A file without a name: a pipe would hold up this process until the other has read it.
        with tempfile.TemporaryFile("w+") as file:
            json.dump(order, file)
            file.seek(0)
            command = [sys.executable, "-m", "m2mkd.tracking.mlflow_mirror", str(file.fileno())]
            # A group of its own, which Ctrl-C does not reach, but the same session: Linux shares a core out among sessions first, and in
            # one of its own it would get as much as the training, however idle its priority.
            return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[file.fileno()], process_group=0)
    except Exception as error:
        sys.stderr.write(f"tracking: not mirrored to MLflow ({error}); the training goes on, and 'm2mkd track sync' brings its curves\n")
        return None


def order_of(study: Study, run: Run, slot: int) -> dict[str, Any]:
    """What the other process must know of one replicate."""
    from m2mkd.study.lineage import display_rows
    from m2mkd.tracking.entry import run_entry

    entry = run_entry(study, run, slot, display_rows(study)[run.id], {})
    work, published = (Path(study.root, folder, run.id, str(slot), CURVES) for folder in ("work", "runs"))
    return {"entry": asdict(entry), "work": str(work), "published": str(published), "stamp": stamp_of(work)}


def stamp_of(path: Path) -> list[int] | None:
    """Size and time of a file, which change when it is written to; none where there is no such file."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return [state.st_size, state.st_mtime_ns]
