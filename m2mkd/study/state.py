"""What of a study is on the disk."""

import os
from pathlib import Path

from m2mkd.study.run import Run
from m2mkd.study.study import Study

NORMAL_MTIME = 1_708_905_600.0
"""Time of modification of every keyed file, in seconds: the day of the paper's first version."""


def is_done(study: Study, run: Run) -> bool:
    """Whether all outputs of a run are there."""
    return all(Path(output).is_file() for output in study.outputs(run))


def normalise_mtimes(study: Study) -> None:
    """Give all outputs of runs, and all prepared sets, one and the same time of modification.

    They lie under the digest of what decides them, so a file that is there is right. Snakemake, however, takes an output for outdated when
    an input is newer, as it may well be after a clone, a ``dvc checkout`` or a copy.
    """
    manifests = {data.manifest for run in study.runs.values() for data in run.config.data_sets}
    outputs = {output for run in study.runs.values() for output in study.outputs(run)}
    for path in manifests | outputs:
        try:
            if not Path(path).is_symlink() and Path(path).stat().st_mtime != NORMAL_MTIME:
                os.utime(path, (NORMAL_MTIME, NORMAL_MTIME))
        except (FileNotFoundError, PermissionError):
            continue  # not there yet, or somebody else's


def surplus(study: Study) -> list[Path]:
    """Folders of runs at the study's scale that it does not need."""
    wanted = {study.folder(run_id) for run_id in study.runs}
    return [folder for folder in sorted(Path(study.root, "runs").glob("*/*")) if folder.as_posix() not in wanted]
