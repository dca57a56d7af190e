"""Differences between a new plan and the last one."""

from collections.abc import Iterable
from typing import Any

from m2mkd.config.load import as_assignments
from m2mkd.study.groups import index_of
from m2mkd.study.run import Run
from m2mkd.study.study import Study

MOST_SHOWN = 6
"""Most changed fields that are named; nobody would read more."""


def plan_differences(before: Study, after: Study) -> str:
    """Describe in one line the runs that are new in a plan, those no longer in it, and the configuration fields that differ.

    Empty if both have the same runs.
    """
    new = [run for run_id, run in after.runs.items() if run_id not in before.runs]
    gone = [run for run_id, run in before.runs.items() if run_id not in after.runs]
    if not new and not gone:
        return ""
    fields = _changed_fields(gone, new)
    shown = ", ".join(fields[:MOST_SHOWN]) + (f" and {len(fields) - MOST_SHOWN} more" if len(fields) > MOST_SHOWN else "")
    why = f": {shown}" if shown else ""
    return f"since the last plan {len(new)} of {len(after.runs)} runs are new, and {len(gone)} are no longer needed{why}"


def _changed_fields(gone: Iterable[Run], new: Iterable[Run]) -> list[str]:
    """Changed fields with old and new value, for runs with the same role in the study."""
    before = {_part(run): run for run in gone}
    changed = {}
    for run in new:
        if old := before.get(_part(run)):
            values, others = (dict(_fields(one)) for one in (old, run))
            for name in values.keys() | others.keys():
                if values.get(name) != others.get(name):
                    changed[f"{name} {values.get(name)} -> {others.get(name)}"] = name
    return sorted(changed)


def _part(run: Run) -> tuple[Any, ...]:
    return run.phase, run.what, run.seed, index_of(run), tuple(sorted(run.users))


def _fields(run: Run) -> Iterable[tuple[str, str]]:
    for assignment in as_assignments(run.config.model_dump(mode="json")):
        name, _, value = assignment.partition("=")
        yield name, value
