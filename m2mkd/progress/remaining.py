"""Time that a study still takes: planned costs, corrected by what finished runs took here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from m2mkd.errors import InputError
from m2mkd.planning.cost import Assumptions, cost_of
from m2mkd.progress.estimate import expected_seconds, time_left
from m2mkd.study.study import Study

SLOWEST = 0.05
"""Least seconds of runs in a second on the clock that are reckoned with, so that a long start does not make the estimate absurd."""


@dataclass(frozen=True)
class Spent:
    """Time of a finished run, in seconds."""

    all: float
    """Of all sessions, its share of a job of several runs."""
    last: float
    """Of the last session alone, on the clock."""


class Remaining:
    """Estimates how long a study still takes.

    Parameters
    ----------
    study
        The graph of runs.
    before
        Time of runs that were finished before, perhaps on another machine.
    """

    def __init__(self, study: Study, before: Mapping[str, Spent]):
        self.costs = planned_costs(study)
        self.parents = {run_id: run.parents for run_id, run in study.runs.items()}
        self.before, self.here = dict(before), dict[str, Spent]()
        self._first_job: float | None = None

    def seconds(self, done: Collection[str], running: Mapping[str, float], shares: Mapping[str, float], now: float) -> float | None:
        """Seconds until all runs are done; none as long as no run that computes has been measured, here or before.

        Parameters
        ----------
        done
            Ids of finished runs.
        running
            When each running one began, by id.
        shares
            Part of a running training that is done, from 0 to 1, by id.
        now
            The time.
        """
        if running and self._first_job is None:
            self._first_job = min(running.values())
        # Runs without a planned cost, such as copying tensors, tell no speed.
        measured = self.here if any(map(self.costs.__getitem__, self.here)) else self.before | self.here
        if not any(map(self.costs.__getitem__, measured)):
            return None
        expected = expected_seconds(self.costs, {run_id: spent.all for run_id, spent in measured.items()})
        left = {run_id: 0.0 if run_id in done else (1 - shares.get(run_id, 0.0)) * expected[run_id] for run_id in self.costs}
        return time_left(left, self.parents, self._rate(running, now))

    def _rate(self, running: Mapping[str, float], now: float) -> float:
        """Seconds of runs that were computed here in a second on the clock; before the first has ended, the number of running ones."""
        wall = 0.0 if self._first_job is None else now - self._first_job
        if not self.here or wall <= 0:
            return max(1, len(running))
        computed = sum(min(spent.last, wall) for spent in self.here.values()) + sum(now - began for began in running.values())
        return max(SLOWEST, computed / wall)


def planned_costs(study: Study) -> dict[str, float]:
    """Planned cost of every run; where a data set has no registered number of images, as if all runs cost the same."""
    try:
        return {run_id: cost.gpu_hours for run_id, cost in cost_of(study, Assumptions(gpus=1, nac="model")).items()}
    except InputError:
        return dict.fromkeys(study.runs, 1.0)
