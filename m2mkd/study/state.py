"""State of a study on the disk."""

import os
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from m2mkd.files import read_note
from m2mkd.study.run import Run
from m2mkd.study.study import Study

NORMAL_MTIME = 315_619_200.0
"""Time of modification of every keyed file, in seconds: 2 January 1980, earlier than any clock, and still a date that a zip can hold."""


def is_done(study: Study, run: Run) -> bool:
    """True if all outputs of a run exist."""
    return all(Path(output).is_file() for output in study.outputs(run))


def manifests(study: Study) -> set[str]:
    """Manifests of all prepared sets that a study reads."""
    return {data.manifest for run in study.runs.values() for data in run.config.data_sets}


def normalise_mtimes(study: Study) -> None:
    """Give all outputs of runs, and all prepared sets, the same time of modification.

    Their paths have the digest of what decides them, so an existing file is right. Snakemake, however, takes an output for outdated when
    an input is newer, as it may well be after a clone, a ``dvc checkout`` or a copy.
    """
    set_normal(manifests(study) | {output for run in study.runs.values() for output in study.outputs(run)})


def normalise_all_mtimes(study: Study) -> None:
    """Set the times before something is made from a whole study, and correct other inputs with a time in the future."""
    normalise_mtimes(study)
    quoted = [*Path("config").rglob("*"), *Path("results/published").glob("*.csv")]
    out_of_the_future(["config", "results/published", *quoted, study.receipt, Path(study.pages, "report.html")])


def set_normal(paths: Iterable[str | Path]) -> None:
    """Give files that time. A link's own time is set: its target may be shared, as in a cache of DVC."""
    _set_times(paths, NORMAL_MTIME, lambda there: there != NORMAL_MTIME)


def out_of_the_future(paths: Iterable[str | Path]) -> None:
    """Give files that seem to come from the future, because a clock was wrong or is now, the present time.

    Snakemake refuses what a job made from such a file, because it looks older than its input.
    """
    now = time.time()
    _set_times(paths, now, lambda there: there > now)


def _set_times(paths: Iterable[str | Path], wanted: float, wrong: Callable[[float], bool]) -> None:
    for path in paths:
        try:
            if wrong(os.lstat(path).st_mtime):
                os.utime(path, (wanted, wanted), follow_symlinks=False)
        except (OSError, NotImplementedError):
            continue  # missing, owned by another user, or on a file system without times


def surplus(study: Study) -> list[Path]:
    """Folders of runs at the study's scale that it does not need."""
    wanted = {study.folder(run_id) for run_id in study.runs}
    return [folder for folder in sorted(Path(study.root, "runs").glob("*/*")) if folder.as_posix() not in wanted]


def surplus_plans(study: Study, keys: Collection[str]) -> list[Path]:
    """Plans at a scale, except those of these studies and their runs, and of the study that was planned last."""
    folder = Path(study.root, "plan")
    keys = {*keys, _key_in(folder / "current.json")} - {""}
    wanted = {folder / f"{run_id}.json" for run_id in study.runs} | {folder / f"study-{key}.json" for key in keys}
    found = {*folder.glob("*/*.json"), *folder.glob("study-*.json")} - wanted
    return sorted(found | {path for path in folder.glob("graph-*.json") if _key_in(path) not in keys})


def _key_in(path: Path) -> str:
    """Key of the study that a plan file belongs to."""
    note = read_note(path)
    return str(note.get("study", "")) if isinstance(note, dict) else ""
