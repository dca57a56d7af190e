"""Runs of a study, listed for people and programs."""

import sys
from collections.abc import Sequence
from typing import Any

from m2mkd.study.phase import PHASES
from m2mkd.study.record import code_in_words, finished_runs
from m2mkd.study.state import is_done
from m2mkd.study.study import Study


def listed(study: Study) -> list[dict[str, Any]]:
    """List every run, phase by phase.

    Returns
    -------
    list of dict
        ``phase``, ``key``, ``seed`` (none if all share it), ``what``, ``done``, ``experiments``; ``code``, in words whether this code
        computed it (`m2mkd.study.record.code_in_words`); ``changed_modules``, none if the run does not record them.
    """
    order, finished = list(PHASES), finished_runs(study)
    runs = sorted(study.runs.values(), key=lambda run: order.index(run.phase))
    return [
        {
            "phase": run.phase,
            "key": run.key,
            "seed": run.seed,
            "what": run.what,
            "done": is_done(study, run),
            "experiments": sorted(run.users),
            "code": code_in_words(finished.get(run.id)),
            "changed_modules": list(changed) if (one := finished.get(run.id)) and (changed := one.changed) is not None else None,
        }
        for run in runs
    ]


def as_lines(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Print one line per run, with cells separated by tabs, the same at any width of the terminal."""
    return ["\t".join(_cells(run)) for run in runs]


def _cells(run: dict[str, Any]) -> tuple[str, ...]:
    seed = "" if run["seed"] is None else str(run["seed"])
    return f"{run['phase']}/{run['key']}", run["what"], seed, "yes" if run["done"] else "no", ", ".join(run["experiments"]), run["code"]


def show(runs: Sequence[dict[str, Any]]) -> bool:
    """Print a table with whole keys and shortened experiments; return false if this is not a terminal."""
    if not sys.stdout.isatty():
        return False
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("run", "what", "seed", "done"):
        table.add_column(name, no_wrap=True)
    table.add_column("experiments", no_wrap=True, overflow="ellipsis")
    table.add_column("code")
    for run in runs:
        table.add_row(*map(Text, _cells(run)))
    Console().print(table)
    return True
