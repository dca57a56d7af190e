"""``m2mkd restore``: what DVC keeps of a study, brought into a fresh clone so that nothing of it is computed again."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from m2mkd.config.experiment import Settings
from m2mkd.errors import InputError
from m2mkd.study.plan import build_study
from m2mkd.study.state import NORMAL_MTIME, is_done, normalise_mtimes
from m2mkd.study.study import Study


def restore(settings: Settings, pull: Sequence[str], say: Callable[[str], object]) -> None:
    """Pull data sets, runs, tables and report, and give them times by which Snakemake takes them for what they are: done.

    Everything is kept under a digest of what decides it, so that its time says nothing. Only the tables are made from files without a
    digest in their name, the configuration and the published numbers; they count as done if DVC finds these as they were.

    Parameters
    ----------
    settings
        ``config/config.yaml``, for DVC reads the scale from there.
    pull
        Further arguments of ``dvc pull``.
    say
        Told what is there afterwards.

    Raises
    ------
    InputError
        If there is nothing to pull, or DVC cannot pull it; what came is kept, and the next attempt goes on from there.
    """
    if not Path("dvc.lock").is_file() and not any(Path("data/raw").glob("*.dvc")):
        raise InputError("dvc.lock: absent, so nothing was kept by DVC in this clone; run 'dvc repro' and 'dvc push', and commit dvc.lock")
    # A study that was kept before it was finished has stages that DVC has nothing of.
    if _dvc("pull", "--allow-missing", *pull).returncode:
        raise InputError("dvc pull: DVC has said above what is wrong; the same command goes on from what has come")
    if lacking := _said("data", "status").get("uncommitted", {}).get("deleted"):
        raise InputError(f"{lacking[0]}: the remote does not have it; run 'dvc push' where it was made, and the same command again here")
    study = build_study(settings)
    normalise_mtimes(study)
    done = sum(is_done(study, run) for run in study.runs.values())
    _settle_results(study, current=done == len(study.runs) and _results_are_current())
    say(f"{study.scale.title}: {done} of {len(study.runs)} runs are here")


def _dvc(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["dvc", *arguments], check=False, text=True, stdout=subprocess.PIPE if capture else None)
    except FileNotFoundError as error:
        raise InputError("dvc is not installed here; install m2mkd[pipeline], or type 'make reproduce' once") from error


def _said(*arguments: str) -> dict[str, Any]:
    """What DVC says in JSON."""
    done = _dvc(*arguments, "--json", capture=True)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)}: DVC has said above what is wrong; correct it and run the same command again")
    return json.loads(done.stdout)


def _results_are_current() -> bool:
    """Whether the tables are of the configuration and the published numbers that are here, as DVC remembers them."""
    return "results" not in _said("status", "results")


def _settle_results(study: Study, *, current: bool) -> None:
    """Make tables and report newer than what they are made from, and fill the MLflow store, which DVC does not keep; or older."""
    from m2mkd.results.judge.results import Results
    from m2mkd.tracking import mlflow_export

    made = [Path(study.receipt), Path(study.root, "report.html")]
    for path in made:
        if path.is_file():
            # Of a link into DVC's cache the link's own time counts; the file there may be shared.
            os.utime(path, None if current else (NORMAL_MTIME, NORMAL_MTIME), follow_symlinks=False)
    if current and all(path.is_file() for path in made):
        mlflow_export.sync(Results.read(study))
