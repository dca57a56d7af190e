"""Number of cores that this process may use."""

import math
import os
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")


def usable(groups: Path = GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that the process is bound to, or fewer if its cgroup or a parent has a smaller quota of CPU time.

    Parameters
    ----------
    groups, own
        Folder where the kernel shows control groups, and the file that names this process's group.

    Returns
    -------
    int
        At least 1; a quota of two and a half cores counts as two.
    """
    quotas = [quota for folder in _folders(groups, own) if (quota := _quota(folder)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.floor(quota) for quota in quotas)]))


def _folders(groups: Path, own: Path) -> list[Path]:
    """Folders of this process's group, in either version of cgroups, and of its parents; in a container its own is the topmost."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            top = groups / controllers if controllers else groups
            below = top / path.lstrip("/")
            found += [folder for folder in (below, *below.parents) if folder.is_relative_to(top)]
    return [*found, groups, groups / "cpu", groups / "cpu,cpuacct"]


def _quota(folder: Path) -> float | None:
    """Cores that a group may use; None: no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # max
        return None
