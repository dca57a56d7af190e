"""``m2mkd reproduce``: the whole study under Snakemake, whatever an interrupted one left behind, shown as it goes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from m2mkd.config.experiment import Settings
from m2mkd.cores import usable
from m2mkd.errors import InputError
from m2mkd.processes import exclusive
from m2mkd.progress.disk import StudyOnDisk
from m2mkd.progress.findings import CLAIMS_HEADING, aligned, findings
from m2mkd.progress.follow import display_for, follow
from m2mkd.progress.snakemake_log import NEWS, SnakemakeLog
from m2mkd.progress.snapshot import FailedJob, Snapshot
from m2mkd.progress.stopping import Stop, die_of
from m2mkd.study.plan import build_study
from m2mkd.study.study import Study
from m2mkd.workflows import wait_for_all

WORK = Path("results/reproduce")
"""Names the lock that one reproduction at a time holds."""
CTRL_C = 130
"""Exit code after an interruption from the keyboard."""
LINES_OF_SNAKEMAKE = 12
"""Last lines of Snakemake that are shown where it failed and no job did."""


def reproduce(settings: Settings, cores: str) -> int:
    """Run the study of the settings' scale, show its progress, and say what was found and where its results are.

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
        Exit status of Snakemake; 2 if a job refused its input, 130 after Ctrl-C.
    """
    study = build_study(settings)
    # Not what FORCE_COLOR says: without a terminal there is nobody to see a screen.
    console = Console(force_terminal=sys.stdout.isatty(), markup=False, emoji=False, highlight=False)
    log = Path(study.root, "logs", "snakemake.txt")
    with exclusive(WORK, "make", _say) as note_child:
        wait_for_all(_say)
        if any(Path(".snakemake/locks").glob("*")):
            _say("taking back the lock of an interrupted run")
            subprocess.run(["snakemake", "--unlock", "--quiet", "all"], check=True, stderr=subprocess.DEVNULL)
        command = ["snakemake", "--cores", str(usable()) if cores == "all" else cores, "--config", *_as_config(settings)]
        disk, stop = StudyOnDisk(study, SnakemakeLog(log)), Stop()
        _say(f"{study.scale.title}: {len(study.runs)} runs, {len(disk.done)} of them done; Snakemake's log is {log}")
        log.parent.mkdir(parents=True, exist_ok=True)
        with stop.noted(), log.open("wb") as output:
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            except FileNotFoundError as error:
                raise InputError("snakemake is not installed here; install m2mkd[pipeline], or type 'make reproduce'") from error
            note_child(process.pid)
            try:
                last = follow(process, disk, display_for(console), console, stop)
            finally:
                process.wait()  # an error of the display is none of the study
    if stop.signals:
        return _interrupted(stop.signals[-1])
    if process.returncode:
        return _failed(study, last, disk.log, process.returncode)
    _show_findings(study, console)
    _say(where(study))
    return 0


def _interrupted(received: signal.Signals) -> int:
    """Exit code after a signal: the command line explains that of Ctrl-C; of any other this process dies, as it would have at once."""
    if received != signal.SIGINT:
        sys.stderr.write("m2mkd: interrupted; re-running the same command resumes\n")
        die_of(received)
    return CTRL_C


def _failed(study: Study, last: Snapshot, log: SnakemakeLog, status: int) -> int:
    """Say which jobs failed and why, and give the exit code."""
    for job in last.failed:
        _say(f"failed: {job.title}\n  log   {job.log}\n  last  {job.last_line}")
    if not last.failed:
        _say("\n".join(log.end(LINES_OF_SNAKEMAKE)))
    what = "some jobs failed" if last.failed else f"Snakemake ended with status {status}"
    _say(f"{what}; logs are in {study.root}/logs, and re-running the same command resumes")
    return 2 if any(map(_is_refusal, last.failed)) else status


def _is_refusal(job: FailedJob) -> bool:
    """True if a job refused its input, in one line."""
    return job.last_line.startswith(NEWS)


def _show_findings(study: Study, console: Console) -> None:
    """Print the verdict on every claim that the study judges."""
    rows = findings(study)
    if not rows:
        return
    _say(f"\n{CLAIMS_HEADING}")
    if not console.is_terminal:
        _say("\n".join(aligned(rows)))
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    for what, numbers, word in rows:
        table.add_row(Text(f"  {what}"), Text(numbers), Text(word))
    console.print(table)


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
