"""Origins of a run in addition to its configuration: code, data, and the outputs that it builds on, as of the start of the run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m2mkd.data.recorded import digests_here
from m2mkd.errors import InputError
from m2mkd.files import read_note, write_json
from m2mkd.study.code import code_of
from m2mkd.study.files import PlannedRun
from m2mkd.study.phase import RECORD
from m2mkd.study.record import outputs_digest, read_run_json
from m2mkd.study.run import Run
from m2mkd.study.whole import is_whole

CODE = "code.json"
"""Name of the note in the work folder about the code that the run was started with."""
SEVERAL = "several"
"""Replaces a digest if one session computed a part of the run with one version of the module, and another session with another."""


def origins_of(run: Run, runs: Path) -> dict[str, Any]:
    """Origins in a run's record: digests of modules (``code``), prepared sets (``data``), and outputs that it builds on (``inputs``).

    Parameters
    ----------
    run
        Run to be computed.
    runs
        Folder of the runs of its scale.

    Raises
    ------
    InputError
        If a prepared set is missing or damaged, or differs from the one that an upstream run used.
    """
    data = digests_here(run.config.data_sets)
    inputs = {}
    for run_id in run.parents:
        if (runs / run_id / RECORD).is_file():
            record = read_run_json(runs / run_id)
            inputs[run_id] = outputs_digest(record)
            _require_same(data, record.get("data"), run_id)
    return {"code": dict(code_of(run.phase)), "data": data, "inputs": inputs}


def _require_same(data: dict[str, str], seen: object, run_id: str) -> None:
    for name, digest in data.items():
        known = seen.get(name, digest) if isinstance(seen, dict) else digest
        if known != digest:
            raise InputError(
                f"{run_id}: used {name} with digest {str(known)[:12]}..., but now it is {digest[:12]}...; restore the right set "
                f"('m2mkd data verify {name.partition('@')[0]}' says more), or remove the folder of that run and run the workflow again"
            )


def begun_from(planned: PlannedRun, say: Callable[[str], object]) -> dict[str, Any]:
    """Origins of a run that a session starts or resumes, including the code of earlier sessions.

    With ``code: strict``, a run started with other code is restarted.

    Raises
    ------
    InputError
        See `origins_of`.
    """
    found = origins_of(planned.run, planned.root / "runs")
    now, note = found["code"], planned.work / CODE
    before = read_note(note)
    if isinstance(before, dict) and before != now:
        if planned.code == "strict":
            say(f"{planned.run.id} was started with other code, and is restarted")
            for path in planned.work.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        else:
            found["code"] = now | {name: SEVERAL for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    write_json(note, found["code"])
    return found


def counts(planned: PlannedRun, folder: Path) -> bool:
    """True if a folder holds the complete run; with ``code: strict``, only if computed by the same code from the same upstream outputs."""
    if not is_whole(folder, planned.run):
        return False
    if planned.code != "strict":
        return True
    record, now = read_run_json(folder), origins_of(planned.run, planned.root / "runs")
    return all(record.get(name) in (None, now[name]) for name in ("code", "inputs"))
