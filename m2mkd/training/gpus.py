"""GPUs of one machine, shared out among the jobs on it."""

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, Timeout

from m2mkd.errors import InputError
from m2mkd.locks import hold

VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_ORDER = "PCI_BUS_ID"
"""Value of ``CUDA_DEVICE_ORDER`` with which CUDA and the driver number GPUs alike; set when a command starts."""
GPU_LOCKS = Path(tempfile.gettempdir(), f"m2mkd-gpus-{os.getuid()}")
"""Folder with a locked file for each GPU that a job of this user holds; the same for all projects on the machine."""

HELD: list[BaseFileLock] = []
"""Locks of this process; without a reference they would be released."""


def known_to_driver() -> dict[str, str]:
    """UUID of every GPU that the driver shows, by its number; empty without a driver."""
    try:
        printed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [line.split(",") for line in printed.splitlines() if line.count(",") == 1]
    return {number.strip(): uuid.strip() for number, uuid in rows}


def visible() -> list[str]:
    """GPUs that this process may use: those that ``CUDA_VISIBLE_DEVICES`` names, or all.

    GPUs are named by their UUIDs, because a number may mean another GPU in a container or under a scheduler; a number that the
    driver does not know is kept as it is.
    """
    known = known_to_driver()
    named = os.environ.get(VISIBLE)
    if named is not None and os.environ.get("CUDA_DEVICE_ORDER", GPU_ORDER) != GPU_ORDER:
        known = {}  # CUDA and the driver then number GPUs differently
    if named is None:
        return list(known.values())
    return [known.get(name.strip(), name.strip()) for name in named.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]


def reserve_gpus(count: int, say: Callable[[str], object]) -> list[str]:
    """Reserve ``count`` GPUs for this process alone, waiting until they are free, and hide all others from CUDA.

    They stay reserved until the process ends, however it ends. Only jobs that reserve GPUs too are kept out.

    Parameters
    ----------
    count
        Number of GPUs; at least 1.
    say
        Function that reports what is waited for, and what was reserved.

    Returns
    -------
    list of str
        UUIDs of the reserved GPUs.

    Raises
    ------
    InputError
        If this process may not use that many.
    """
    devices = visible()
    if len(devices) < count:
        raise InputError(f"--gpus {count}: only {len(devices)} are visible; omit the option, or check nvidia-smi and {VISIBLE}")
    GPU_LOCKS.mkdir(parents=True, exist_ok=True)
    waited = False
    while not (held := _hold(count, devices)):
        if not waited:
            say(f"waiting for {count} of the GPUs {', '.join(devices)}")
            waited = True
        time.sleep(random.uniform(0.2, 1.0))
    os.environ[VISIBLE] = ",".join(held)
    say(f"on {os.environ[VISIBLE]}")
    return held


def _hold(count: int, devices: list[str]) -> list[str]:
    """Lock ``count`` of the devices; or none, so that two jobs that want several never wait for each other."""
    held: dict[str, BaseFileLock] = {}
    for device in devices:
        with suppress(Timeout):
            held[device] = hold(GPU_LOCKS / f"{device}.lock", timeout=0, mode=0o600)
        if len(held) == count:
            HELD.extend(held.values())
            return list(held)
    for lock in held.values():
        lock.release()
    return []
