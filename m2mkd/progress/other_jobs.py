"""Jobs of a study that are not runs: fetching and preparing data sets, and what is made of all runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from m2mkd.progress.snakemake_log import last_line
from m2mkd.progress.snapshot import PhaseCount, RunningJob
from m2mkd.study.receipt import report_receipt
from m2mkd.study.state import manifests
from m2mkd.study.study import Study

TITLES = {"compile": "compile tables and judge claims", "report": "write the report", "track": "bring the runs to MLflow"}
"""What each rule after the runs does, in the order of the flow."""


class OtherJobs:
    """Data sets before the runs of a study, and tables, report and tracking after them.

    Parameters
    ----------
    study
        The graph of runs.
    since
        Time when this was started; a job whose log is older does not run.
    has_failed
        Whether the job that writes the log of that path has failed.
    """

    def __init__(self, study: Study, since: float, has_failed: Callable[[str], bool]):
        self.study, self.since, self.has_failed = study, since, has_failed
        self.logs = Path(study.root, "logs")
        self._seen: dict[str, float] = {}
        self.manifests = [Path(path) for path in sorted(manifests(study))]

    def before(self) -> PhaseCount:
        """Data sets that are prepared."""
        return PhaseCount("data sets", sum(path.is_file() for path in self.manifests), len(self.manifests))

    def after(self) -> PhaseCount:
        """Tables, report and rows of MLflow that are there."""
        made = self._made()
        return PhaseCount("tables, report, MLflow", sum(made.values()), len(made))

    def running(self, now: float) -> Iterator[RunningJob]:
        """Those that are being computed."""
        for path in self.manifests:
            name, key = path.parts[-3:-1]
            if not path.is_file():
                yield from self._writing(f"prepare {name}", self.logs / "prepare" / f"{name}-{key}.log", now)
        for log in _logs_in(self.logs / "fetch"):
            if not Path(self.study.root, "fetched", log.stem).exists():
                yield from self._writing(f"fetch {log.stem}", log, now)
        for rule, is_made in self._made().items():
            if not is_made:
                yield from self._writing(TITLES[rule], self.logs / f"{rule}.log", now)

    def _made(self) -> dict[str, bool]:
        """Whether what each rule after the runs makes is there."""
        receipt, tracked = Path(self.study.receipt), Path(self.study.root, "tracking.json")
        tables = receipt.is_file()
        tracking = tables and tracked.is_file() and tracked.stat().st_mtime >= receipt.stat().st_mtime
        return {"compile": tables, "report": tables and report_receipt(self.study).is_file(), "track": tracking}

    def _writing(self, title: str, log: Path, now: float) -> Iterator[RunningJob]:
        """The job that writes a log, if it has begun since this did, and has not failed."""
        try:
            changed = log.stat().st_mtime
        except OSError:
            return
        if changed >= self.since and not self.has_failed(log.as_posix()):
            yield RunningJob(title, now - self._seen.setdefault(title, now), measured=last_line(log))


def _logs_in(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".log"))
    except OSError:
        return []
