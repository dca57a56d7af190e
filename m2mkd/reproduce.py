"""``m2mkd reproduce``: the whole study under Snakemake, whatever an interrupted one left behind."""

import json
import subprocess
import sys
import time
from pathlib import Path

from m2mkd.config.experiment import Settings
from m2mkd.cores import usable
from m2mkd.errors import InputError
from m2mkd.processes import exclusive
from m2mkd.study.plan import build_study
from m2mkd.study.state import is_done
from m2mkd.study.study import Study
from m2mkd.workflows import wait_for_all

WORK = Path("results/reproduce")
"""Names the lock that one reproduction at a time holds."""


def reproduce(settings: Settings, cores: str) -> int:
    """Run the study of the settings' scale and say where its results lie.

    What an interrupted reproduction left behind is cleared away first: orphaned processes are ended, and Snakemake's lock is taken back.

    Parameters
    ----------
    settings
        Scale, experiments and overrides.
    cores
        For Snakemake: a number, or ``all`` for those that this process may use.

    Returns
    -------
    int
        Exit status of Snakemake.
    """
    study = build_study(settings)
    with exclusive(WORK, "make", _say) as note_child:
        wait_for_all(_say)
        if any(Path(".snakemake/locks").glob("*")):
            _say("taking back the lock of an interrupted run")
            subprocess.run(["snakemake", "--unlock", "--quiet", "all"], check=True, stderr=subprocess.DEVNULL)
        done = sum(is_done(study, run) for run in study.runs.values())
        _say(f"{study.scale.title}: {len(study.runs)} runs, {done} of them done")
        shown = ["--logger", "rich"] if sys.stdout.isatty() else ["--quiet", "host", "rules", "reason"]
        command = ["snakemake", "--cores", str(usable()) if cores == "all" else cores, *shown, "--config", *_as_config(settings)]
        started = time.time()
        try:
            process = subprocess.Popen(command)
        except FileNotFoundError as error:
            raise InputError("snakemake is not installed here; install m2mkd[pipeline], or type 'make reproduce'") from error
        note_child(process.pid)
        status = process.wait()
    if status:
        refusals = _refusals(Path(study.root, "logs"), started)
        _say("\n".join([*refusals, f"some jobs failed; their logs are in {study.root}/logs, and the same command goes on from here"]))
        return 2 if refusals else status
    _say(where(study))
    return 0


def _refusals(logs: Path, since: float) -> list[str]:
    """What jobs refused, in their own words: one line of each log written since then that has one."""
    written = [log for log in sorted(logs.rglob("*.log")) if log.stat().st_mtime >= since]
    return sorted({line for log in written for line in log.read_text().splitlines() if line.startswith("m2mkd: ")})


def where(study: Study) -> str:
    """Where the results of a study lie, for people."""
    return "\n".join((
        "",
        f"tables   {study.root}/tables/results.md (also .csv, .tex)",
        f"report   {study.root}/report.html",
        "MLflow   results/mlflow.db, opened by 'make mlflow-ui'",
    ))  # fmt: skip


def _as_config(settings: Settings) -> list[str]:
    """All settings, so that Snakemake takes none of them from the file; it reads an empty text as nothing, and null as a text."""
    return [f"{name}={json.dumps('' if value is None else value)}" for name, value in settings.model_dump(mode="json").items()]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
