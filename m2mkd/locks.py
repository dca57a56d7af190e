"""Locks on files, also where the file system has none."""

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

LACKING = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""How file systems say that they know no locks."""


def hold(path: Path, timeout: float = -1, mode: int = 0o644) -> BaseFileLock:
    """Lock a file, which is made; on a file system without locks its presence is the lock, with who made it in it.

    Parameters
    ----------
    path
        The file.
    timeout
        Seconds to wait for another process; negative: for ever.
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
