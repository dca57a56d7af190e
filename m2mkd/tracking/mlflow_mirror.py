"""Process next to a training that mirrors its learning curves to MLflow: see :mod:`m2mkd.tracking.live`."""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2mkd.study.phase import RECORD
from m2mkd.tracking.address import store_uri, without_credentials
from m2mkd.tracking.entry import RECORD_TAG, Entry, Point, curve_points
from m2mkd.tracking.live import stamp_of

if TYPE_CHECKING:
    from mlflow.entities import Run

    from m2mkd.tracking.store import Store

LONGEST_PAUSE = 60.0
"""Most seconds between two tries while the store is away."""
LAST_WORDS = 30
"""Seconds to send what is left when the training has ended."""
LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_LOGGING_LEVEL": "CRITICAL"}
"""A request is made again later anyway, and the job's log is not MLflow's."""


class MirroredRun:
    """Training and its run in the store."""

    def __init__(self, order: dict[str, Any]):
        self.entry = Entry(**order["entry"])
        self.work, self.published, self.stamp = Path(order["work"]), Path(order["published"]), order["stamp"]
        self.sent: set[Point] = set()
        self.run: Run | None = None
        self.given_up = False

    def points(self) -> list[Point]:
        """Points that the training has written and that were not sent yet."""
        file = next((path for path in (self.work, self.published) if path.is_file()), None)
        # An interrupted training cuts its file back before it resumes, and until then the end may be wrong.
        if file is None or (file == self.work and stamp_of(file) == self.stamp and not file.with_name(RECORD).is_file()):
            return []
        try:
            whole, _, _ = file.read_bytes().rpartition(b"\n")  # the last line may be half there
        except FileNotFoundError:  # published in this very moment
            return []
        return [point for point in curve_points([json.loads(line) for line in whole.splitlines()]) if point not in self.sent]

    def send(self, store: "Store") -> None:
        """Send new points to the store."""
        if self.given_up or not (points := self.points()):
            return
        if self.run is None:
            self.run = claim(store, self.entry)
            if self.run is None:
                self.given_up = True
                return
            store.client.update_run(self.run.info.run_id, status="RUNNING")
        try:
            store.log_points(self.run.info.run_id, self.run.info.start_time, points, self.entry.params)
        except Exception:
            # A process that has the finished run does not need the mirrored one, and deleted it.
            self.given_up = store.is_deleted(self.run.info.run_id)
            if not self.given_up:
                raise
        self.sent.update(points)

    def end(self, store: "Store") -> None:
        """Set the run's status when the training has ended."""
        if self.run is not None and not self.given_up and RECORD_TAG not in store.client.get_run(self.run.info.run_id).data.tags:
            finished = self.published.with_name(RECORD).is_file()
            store.client.set_terminated(self.run.info.run_id, "FINISHED" if finished else "KILLED")


def claim(store: "Store", entry: Entry) -> "Run | None":
    """Find or make the run to mirror to; none if the store has the finished run already.

    A process that made one looks again: either it sees another's, or the other process sees its.
    """
    own = None
    while True:
        found = store.find(entry)
        finished = any(RECORD_TAG in run.data.tags for run in found)
        if own is not None and (finished or all(run.info.run_id != own.info.run_id for run in found[:1])):
            store.client.delete_run(own.info.run_id)
        if finished:
            return None
        if found:
            return found[0]
        own = store.client.create_run(store.experiment_id, start_time=round(1000 * time.time()), tags=entry.all_tags, run_name=entry.name)


class MlflowMirror:
    """Follower of the trainings of one job until it ends."""

    def __init__(self, order: dict[str, Any], parent: int):
        self.experiment, self.pause, self.parent = order["experiment"], float(order["seconds"]), parent
        self.followed = [MirroredRun(one) for one in order["runs"]]
        self.store: Store | None = None
        self.warned = False

    def follow(self) -> None:
        """Look at the files regularly; a store that does not answer is asked less and less often."""
        pause = self.pause
        while not self._ended(pause):
            pause = self.pause if self.turn() else min(2 * pause, LONGEST_PAUSE)
        signal.alarm(LAST_WORDS)
        hurry()
        self.turn(last=True)

    def _ended(self, pause: float) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], pause)
        return bool(readable) or os.getppid() != self.parent

    def turn(self, last: bool = False) -> bool:
        """Send new points; true if the store took them."""
        from m2mkd.tracking.address import open_client
        from m2mkd.tracking.store import Store

        try:
            self.store = self.store or Store(open_client(), self.experiment)
            for one in self.followed:
                one.send(self.store)
                if last:
                    one.end(self.store)
        except Exception as error:
            # No error of the store may end the mirror; it warns once.
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if not self.warned:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__).replace(
                store_uri(), without_credentials(store_uri())
            )
            sys.stderr.write(
                f"tracking: MLflow at {without_credentials(store_uri())} takes nothing ({reason}); the training continues, "
                "and 'm2mkd track sync' brings what is missing\n"
            )
            sys.stderr.flush()
        self.warned = True


def stand_back() -> None:
    """Compute only when a core has nothing else to do."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def hurry() -> None:
    """Compute with the usual priority again."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def main() -> None:
    """Follow the order in the open file whose number is the argument."""
    import logging

    parent = os.getppid()
    stand_back()
    with os.fdopen(int(sys.argv[1])) as file:
        order = json.load(file)
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "urllib3", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    MlflowMirror(order, parent).follow()


if __name__ == "__main__":
    main()
