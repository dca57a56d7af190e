"""Where and in which precision a job computes."""

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from m2mkd.errors import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device of that name: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which takes a GPU where there is one.

    Raises
    ------
    InputError
        If the name is another, or the device is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", name):
        raise InputError(f"--device {name}: not a device that this suite computes on; use cpu, cuda, cuda:N or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this machine's torch {torch.__version__} sees no GPU; use --device cpu")
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs, counted from 0; use one of them")
    return device


def prepare_torch(threads: int) -> None:
    """Fix what decides the last bit of a sum: the number of CPU threads, and deterministic algorithms."""
    # Huge pages: large batches otherwise wait for page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    torch.set_num_threads(threads)
    # Some CUDA operations have no deterministic form; there a warning must do.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it only costs time


@contextlib.contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Autocast to ``precision`` (fp32, bf16, fp16) on ``device``.

    Raises
    ------
    InputError
        For fp16 on a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise InputError("recipe: precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    with torch.autocast(device.type, DTYPES.get(precision), enabled=precision in DTYPES):
        yield
