"""Resources that a job uses: time, memory and, if a GPU reports it, energy."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from m2mkd.ranks import ALONE, Ranks


def _torch_on_gpu() -> Any:
    """Module torch, if it is loaded and has a GPU; else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def joules_of_gpu() -> float | None:
    """Energy that the current GPU has used since its driver was loaded; None without a GPU, NVML or its counter."""
    torch = _torch_on_gpu()
    if torch is None:
        return None
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        identity = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(identity)) / 1000
    except Exception:  # not installed, or one of NVML's own errors
        return None


class Usage:
    """Counter of usage since its construction, which continues the counts of interrupted sessions.

    Parameters
    ----------
    together
        Number of runs that are computed at once, among which time and energy are divided.
    clock
        Seconds since a fixed moment.
    joules
        Energy since a fixed moment; None if it is not counted.
    """

    def __init__(
        self, together: int = 1, clock: Callable[[], float] = time.monotonic, joules: Callable[[], float | None] = joules_of_gpu
    ) -> None:
        self._clock, self._joules = clock, joules
        self.began, self.joules, self.together = clock(), joules(), together
        self._before: dict[str, float] = {}

    def spent(self) -> dict[str, float]:
        """``seconds`` and, if NVML counts it, ``gpu_joules`` so far; energy includes other processes' use of the same GPU."""
        found, now = {"seconds": self._clock() - self.began}, self._joules()
        if self.joules is not None and now is not None:
            found["gpu_joules"] = now - self.joules
        own = {name: value / self.together for name, value in found.items()}
        return {name: own.get(name, 0.0) + self._before.get(name, 0.0) for name in own | self._before}

    def go_on_from(self, spent: Mapping[str, float]) -> None:
        """Continue from the usage at the time of a checkpoint; of several checkpoints the last one is complete."""
        self._before = {name: max(value, self._before.get(name, 0.0)) for name, value in spent.items()}

    def read(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """Usage so far; to be called by all ranks.

        Returns
        -------
        dict
            The values of `spent`, and ``peak_memory_bytes`` (of the process, resident); on a GPU ``peak_gpu_memory_bytes`` (allocated by
            torch). With several ranks these are maxima, but energy is a sum; in earlier sessions every GPU is assumed to have used what
            the first one did.
        """
        unit = 1 if sys.platform == "darwin" else 1024
        found = self.spent() | {"peak_memory_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        torch = _torch_on_gpu()
        if torch is not None:
            found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        everyone = ranks.all_gather(found)
        return {
            name: sum(one.get(name, 0.0) for one in everyone) if name == "gpu_joules" else max(one.get(name, 0.0) for one in everyone)
            for name in found
        }
