"""Locks on files, also on file systems without locks."""

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

LACKING = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""Error codes of file systems that do not support locks."""


def hold(path: Path, timeout: float = -1, mode: int = 0o644) -> BaseFileLock:
    """Lock a file, creating it; on a file system without locks, the existence of a file that names its maker is the lock.

    Parameters
    ----------
    path
        The file.
    timeout
        Seconds to wait for another process; negative: without limit.
    mode
        Permissions of the file.

    Raises
    ------
    filelock.Timeout
        If another process still has it.
    """
    try:
        lock: BaseFileLock = FileLock(path, mode=mode)
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in LACKING:
            raise
        lock = SoftFileLock(path.with_name(f"{path.name}.held"), mode=mode)
        lock.acquire(timeout=timeout)
    return lock
