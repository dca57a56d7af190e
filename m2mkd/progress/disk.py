"""A study followed on the disk: published runs, work folders of running ones, and the logs of jobs.

A look costs some calls of the file system: nothing is hashed, no lock is taken, and only what changed is read.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from m2mkd.config.strict import PARSERS_ERRORS
from m2mkd.processes import OWNER_FILE, works_on
from m2mkd.progress.curve import Curve, measured_in_words
from m2mkd.progress.other_jobs import OtherJobs
from m2mkd.progress.remaining import Remaining, Spent
from m2mkd.progress.snakemake_log import SnakemakeLog, last_line
from m2mkd.progress.snapshot import EndedRun, FailedJob, PhaseCount, RunningJob, Snapshot
from m2mkd.study.files import plan_folder
from m2mkd.study.groups import job_groups
from m2mkd.study.lineage import display_rows
from m2mkd.study.phase import CURVES, METRICS, PHASES, RECORD
from m2mkd.study.state import NORMAL_MTIME, is_done
from m2mkd.study.study import Study
from m2mkd.study.titles import job_titles

CHECKED_AGAIN = 50
"""Finished runs that each look checks again: Snakemake removes the outputs of a run that it computes again."""


class StudyOnDisk:
    """What of a study is done, runs or has failed, by its files.

    Parameters
    ----------
    study
        The graph of runs.
    log
        What Snakemake prints.
    clock
        Gives the time in seconds, on the clock that files have theirs from.
    """

    def __init__(self, study: Study, log: SnakemakeLog, clock: Callable[[], float] = time.time):
        self.study, self.log, self._clock = study, log, clock
        self.began, self.logs = clock(), Path(study.root, "logs")
        self.titles = job_titles(study, display_rows(study), job_groups(study))
        self.done = {run.id for run in study.runs.values() if is_done(study, run)}
        spent = {run_id: found for run_id in self.done if (found := self._spent(run_id)) is not None}
        self.remaining = Remaining(study, spent)
        self.others = OtherJobs(study, self.began, log.failures.__contains__)
        self._curves: dict[str, Curve] = {}
        self._looks = 0

    def look(self) -> Snapshot:
        """The state of the study now."""
        news, now = self.log.read(), self._clock()
        self._check_done()
        ended = self._ended()
        running = self._running(now)
        curves = {run_id: curve for run_id in running if (curve := self._curve(run_id)) is not None}
        left = self.remaining.seconds(self.done, running, {run_id: curve.share for run_id, curve in curves.items()}, now)
        jobs = [self._job(run_id, now - began, curves.get(run_id)) for run_id, began in running.items()]
        return Snapshot(
            title=self.study.scale.title,
            done=len(self.done),
            total=len(self.study.runs),
            elapsed=now - self.began,
            left=left,
            phases=(self.others.before(), *self._phases(), self.others.after()),
            running=tuple(sorted([*jobs, *self._starting(running, now), *self.others.running(now)], key=lambda job: -job.seconds)),
            failed=tuple(self._failed()),
            ended=tuple(ended),
            news=tuple(news),
            planned=self.log.planned,
        )

    def _check_done(self) -> None:
        """Strike out finished runs that are computed again; some of them are looked at each time."""
        known = sorted(self.done)
        first = self._looks * CHECKED_AGAIN
        for number in range(min(CHECKED_AGAIN, len(known))):
            run_id = known[(first + number) % len(known)]
            if not is_done(self.study, self.study.runs[run_id]):
                self.done.discard(run_id)
        self._looks += 1

    def _ended(self) -> list[EndedRun]:
        """Runs that have ended since the last look; those that are to be computed again are struck out."""
        again, ended = self._marked_again(), []
        self.done -= again
        for run_id, run in self.study.runs.items():
            if run_id in self.done or run_id in again or not is_done(self.study, run):
                continue
            self.done.add(run_id)
            self._curves.pop(run_id, None)
            spent = self._spent(run_id)
            if spent is not None:
                self.remaining.here[run_id] = spent
            ended.append(EndedRun(self.titles[run_id], spent.all if spent else None, self._published(run_id)))
        return ended

    def _marked_again(self) -> set[str]:
        """Finished runs that are to be computed again, and have not begun: their job gives the mark the time of its outputs."""
        marks = _times(plan_folder(self.study.scale_name) / "again")
        return {"/".join(path.stem.rsplit("-", 1)) for path, changed in marks.items() if changed > NORMAL_MTIME}

    def _running(self, now: float) -> dict[str, float]:
        """When the runs began that are being computed, by id."""
        found = {}
        for phase in PHASES:
            for path, changed in _times(Path(self.study.root, "work", phase)).items():
                match = OWNER_FILE.fullmatch(path.name)
                run_id = f"{phase}/{match[1]}" if match else ""
                if run_id in self.study.runs and run_id not in self.done and works_on(path, self.began):
                    found[run_id] = min(now, changed)
        return found

    def _starting(self, running: Collection[str], now: float) -> Iterator[RunningJob]:
        """Jobs that have begun to write their logs, and do not hold their runs yet."""
        for phase in PHASES:
            for log, changed in _times(self.logs / phase).items():
                run_id = f"{phase}/{log.stem}"
                known = run_id in self.study.runs and run_id not in self.done and run_id not in running
                if known and changed >= self.began and log.as_posix() not in self.log.failures:
                    yield RunningJob(self.titles.get(log.stem) or self.titles[run_id], now - changed, "starts")

    def _curve(self, run_id: str) -> Curve | None:
        """The learning curve of a running training as it is now; none of a run that trains nothing."""
        config = self.study.runs[run_id].config
        if CURVES not in config.OUTPUTS:
            return None
        if run_id not in self._curves:
            recipe = getattr(config, "recipe", None)
            length = getattr(recipe, "epochs", None), getattr(recipe, "updates", None)
            self._curves[run_id] = Curve(Path(self.study.root, "work", run_id, CURVES), *length)
        self._curves[run_id].read()
        return self._curves[run_id]

    def _job(self, run_id: str, seconds: float, curve: Curve | None) -> RunningJob:
        if curve is None:
            return RunningJob(self.titles[run_id], seconds)
        return RunningJob(self.titles[run_id], seconds, curve.position, curve.measured)

    def _phases(self) -> Iterator[PhaseCount]:
        for phase in PHASES:
            runs = [run_id for run_id in self.study.runs if run_id.startswith(f"{phase}/")]
            if runs:
                yield PhaseCount(phase, sum(run_id in self.done for run_id in runs), len(runs))

    def _failed(self) -> Iterator[FailedJob]:
        for log, times in self.log.failures.items():
            name = log.removeprefix(f"{self.logs}/").removesuffix(".log")
            if name not in self.done:
                title = self.titles.get(name.rpartition("/")[2]) or self.titles.get(name) or name.replace("/", " ")
                yield FailedJob(title, log, last_line(Path(log)), times)

    def _spent(self, run_id: str) -> Spent | None:
        """Time that a finished run took, by its record."""
        found = self._read(run_id, RECORD).get("provenance")
        if not isinstance(found, Mapping):
            return None
        try:
            return Spent(float(found["seconds"]), float(found["ended"]) - float(found["started"]))
        except PARSERS_ERRORS:
            return None

    def _published(self, run_id: str) -> str:
        """Loss and accuracy that a finished run measured."""
        found = self._read(run_id, METRICS)
        return measured_in_words({"val_top1": found.get("top1"), **found})

    def _read(self, run_id: str, name: str) -> dict[str, object]:
        """An output of a run as JSON; empty where it cannot be read, which is left to others."""
        try:
            found = json.loads(Path(self.study.folder(run_id), name).read_bytes())
        except (OSError, *PARSERS_ERRORS):
            return {}
        return found if isinstance(found, dict) else {}


def _times(folder: Path) -> dict[Path, float]:
    """Times of modification of what is in a folder, which jobs write to meanwhile."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    found[Path(entry.path)] = entry.stat().st_mtime
    except OSError:
        return {}
    return found
