"""Removal of files that no study needs."""

import shutil
from pathlib import Path

from m2mkd.processes import is_held


def remove(path: Path) -> bool:
    """Remove the folder of a run, or one file of a plan; not if a job holds the run.

    Returns
    -------
    bool
        True if it was removed.
    """
    if path.is_dir():
        work = path.parents[2] / "work" / path.parent.name / path.name
        if is_held(work):
            return False
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return True
