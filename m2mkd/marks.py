"""Snakemake's marks of jobs that it did not see end: it would remove their outputs, complete or not, and compute them again."""

import os
import shutil
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from pathlib import Path

from m2mkd.processes import is_held
from m2mkd.study.state import manifests
from m2mkd.study.study import Study
from m2mkd.study.whole import is_whole, kept_folder

INCOMPLETE = Path(".snakemake/incomplete")


def mark_of(output: str) -> Path:
    """Path of the mark of an incomplete output: the output's path in base64, split where the file system limits the length of names."""
    text = urlsafe_b64encode(output.encode()).decode()
    longest = os.pathconf(INCOMPLETE, "PC_NAME_MAX") or 255
    parts = [text[start : start + longest - 1] for start in range(0, len(text), longest - 1)]
    return INCOMPLETE.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def clear_marks(study: Study) -> None:
    """Remove the marks of runs that are complete by their digests, and of prepared sets, which appear only when they are complete.

    The files that a job saved from Snakemake's removal are deleted too. A run that a job holds is left alone, and so is an incomplete run:
    Snakemake removes its outputs, and its job resumes from its work folder.
    """
    for run in study.runs.values():
        work = Path(study.root, "work", run.id)
        marks = _marks(study.outputs(run))
        kept = kept_folder(work)
        if (marks or kept.is_dir()) and not is_held(work) and is_whole(Path(study.folder(run.id)), run):
            _remove(marks)
            shutil.rmtree(kept, ignore_errors=True)
    _remove(_marks(path for path in manifests(study) if Path(path).is_file()))


def _marks(outputs: Iterable[str]) -> list[Path]:
    return [mark for output in outputs if (mark := mark_of(output)).is_file()] if INCOMPLETE.is_dir() else []


def _remove(marks: Iterable[Path]) -> None:
    for mark in marks:
        mark.unlink(missing_ok=True)
