"""Estimate of the time that a study still takes: pure functions of planned costs and measured seconds."""

from collections.abc import Mapping, Sequence


def expected_seconds(costs: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each run takes: the measured ones, and for the others their planned cost at the speed that was measured.

    A run's speed is that of its phase, whose runs compute alike; of a phase that has no measured run, that of all measured runs.

    Parameters
    ----------
    costs
        Planned cost of every run by its id, ``phase/key``, in any unit.
    measured
        Seconds of finished runs by id; at least one, else nothing is known.

    Returns
    -------
    dict
        Seconds by id.
    """
    phases: dict[str, list[str]] = {}
    for run_id in measured:
        phases.setdefault(_phase(run_id), []).append(run_id)
    speeds = {phase: _speed(costs, measured, ids) for phase, ids in phases.items()}
    everywhere = _speed(costs, measured, list(measured))
    # Runs that compute nothing by the plan, such as copying tensors, take the mean time of those of their phase.
    means = {phase: sum(measured[run_id] for run_id in ids) / len(ids) for phase, ids in phases.items()}
    return {
        run_id: measured.get(run_id, cost * (speeds.get(_phase(run_id)) or everywhere) if cost else means.get(_phase(run_id), 0.0))
        for run_id, cost in costs.items()
    }


def longest_chain(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]]) -> float:
    """Seconds of the longest chain of runs that wait for each other.

    Parameters
    ----------
    seconds
        Seconds that each run still takes, upstream runs before downstream ones.
    parents
        Runs that each run waits for.
    """
    ends: dict[str, float] = {}
    for run_id, own in seconds.items():
        ends[run_id] = own + max((ends[parent] for parent in parents[run_id]), default=0.0)
    return max(ends.values(), default=0.0)


def time_left(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]], rate: float) -> float:
    """Seconds on the clock until all runs are done.

    Parameters
    ----------
    seconds
        Seconds that each run still takes, upstream runs before downstream ones; 0 for those that are done.
    parents
        Runs that each run waits for.
    rate
        Seconds of runs that are computed in a second on the clock: runs at a time, less the time in which none is computed.
    """
    return max(sum(seconds.values()) / rate, longest_chain(seconds, parents) / min(1.0, rate))


def _phase(run_id: str) -> str:
    return run_id.partition("/")[0]


def _speed(costs: Mapping[str, float], measured: Mapping[str, float], ids: Sequence[str]) -> float:
    """Seconds for each unit of cost."""
    planned = sum(costs[run_id] for run_id in ids)
    return sum(measured[run_id] for run_id in ids) / planned if planned else 0.0
