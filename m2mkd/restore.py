"""``m2mkd restore``: brings what DVC keeps of a study into a fresh clone, so that nothing is computed again."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from m2mkd.config.experiment import Settings
from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.study.plan import build_study
from m2mkd.study.state import NORMAL_MTIME, is_done, normalise_mtimes
from m2mkd.study.study import Study


def restore(settings: Settings, pull: Sequence[str], say: Callable[[str], object]) -> None:
    """Pull data sets, runs, tables and report, and set their times so that Snakemake takes them as done.

    Everything is kept under a digest of its inputs, so its time has no meaning. Only the tables are also made from files without a
    digest in their name, the configuration and the published numbers; they count as done if these files are as DVC recorded them.

    Parameters
    ----------
    settings
        ``config/config.yaml``, because DVC reads the scale from there.
    pull
        Further arguments of ``dvc pull``.
    say
        Function that reports what exists afterwards.

    Raises
    ------
    InputError
        If there is nothing to pull, or DVC cannot pull it; downloaded files are kept, and the next attempt resumes from there.
    """
    if not Path("dvc.lock").is_file() and not any(Path("data/raw").glob("*.dvc")):
        raise InputError("dvc.lock: missing, so DVC has kept nothing in this clone; run 'dvc repro' and 'dvc push', and commit dvc.lock")
    # A study that was kept before it was finished has stages without any data in DVC.
    if _dvc("pull", "--allow-missing", *pull).returncode:
        raise InputError("dvc pull: failed, see DVC's message above; the same command resumes the download")
    if lacking := _said("data", "status").get("uncommitted", {}).get("deleted"):
        raise InputError(f"{lacking[0]}: not on the remote; run 'dvc push' where it was made, then the same command again here")
    study = build_study(settings)
    normalise_mtimes(study)
    done = sum(is_done(study, run) for run in study.runs.values())
    _settle_results(study, current=done == len(study.runs) and _results_are_current())
    say(f"{study.scale.title}: {done} of {len(study.runs)} runs are here")


def _dvc(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["dvc", *arguments], check=False, text=True, stdout=subprocess.PIPE if capture else None)
    except FileNotFoundError as error:
        raise InputError("dvc is not installed; install m2mkd[pipeline], or run 'make reproduce' once") from error


def _said(*arguments: str) -> dict[str, Any]:
    """JSON output of DVC."""
    done = _dvc(*arguments, "--json", capture=True)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)}: failed, see DVC's message above; correct it and run the same command again")
    return parse_json(done.stdout, f"the output of 'dvc {' '.join(arguments)} --json'")


def _results_are_current() -> bool:
    """True if the tables match the configuration and the published numbers here, as recorded by DVC."""
    return "results" not in _said("status", "results")


def _settle_results(study: Study, *, current: bool) -> None:
    """Fill the MLflow store, which DVC does not keep, and make tables and report newer than their inputs; older if they are not current."""
    from m2mkd.results.judge.results import Results
    from m2mkd.tracking import mlflow_export

    made = [Path(study.receipt), Path(study.root, "report.html")]
    for path in made:
        if path.is_file():
            # For a link into DVC's cache the link's own time counts; the file there may be shared.
            os.utime(path, None if current else (NORMAL_MTIME, NORMAL_MTIME), follow_symlinks=False)
    if current and all(path.is_file() for path in made):
        mlflow_export.sync(Results.read(study))
