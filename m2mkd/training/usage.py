"""What a job takes of its machine: memory and, where a GPU tells, energy."""

import resource
import sys
from importlib import import_module
from typing import Any


class Usage:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self.joules = _joules()

    def read(self, together: int = 1) -> dict[str, float]:
        """What was used until now.

        Parameters
        ----------
        together
            Among how many runs that were computed at once the energy is divided.

        Returns
        -------
        dict
            ``peak_memory_bytes`` (of the process, resident); on a GPU ``peak_gpu_memory_bytes`` (allocated by torch) and, where NVML counts
            it, ``gpu_joules``, which holds what others did on the same GPU too.
        """
        unit = 1 if sys.platform == "darwin" else 1024
        found: dict[str, float] = {"peak_memory_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        torch = _torch_on_gpu()
        if torch is not None:
            found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        now = _joules()
        if self.joules is not None and now is not None:
            found["gpu_joules"] = (now - self.joules) / together
        return found


def _torch_on_gpu() -> Any:
    """Torch, if it is loaded and has a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _joules() -> float | None:
    """Energy that the current GPU took since its driver was loaded; none where there is no GPU, no NVML, or no counter in it."""
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
