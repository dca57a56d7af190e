"""Device and precision of a job."""

import contextlib
import datetime
import os
import re
from collections.abc import Iterator

import torch

from m2mkd.errors import InputError
from m2mkd.ranks import ALONE, Ranks
from m2mkd.signals import heeding

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
RANK_TIMEOUT = datetime.timedelta(minutes=30)
"""Maximum time that a rank waits for the others, for example until the first one has measured or acquired a lock."""


def choose_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """Device of the given name: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which selects a GPU if there is one.

    With several ranks on a machine, each uses the GPU of its local rank.

    Raises
    ------
    InputError
        If the name is unknown, or the device does not exist.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", name):
        raise InputError(f"--device {name}: not a device that this suite computes on; use cpu, cuda, cuda:N or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this machine's torch {torch.__version__} sees no GPU; use --device cpu")
    if ranks.count > 1 and name.startswith("cuda:"):
        raise InputError(f"--device {name}: each of {ranks.count} ranks needs its own GPU; use --device cuda and CUDA_VISIBLE_DEVICES")
    if ranks.count > 1 and name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', ranks.rank)}"
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs, counted from 0; use one of them")
    return device


def prepare_torch(threads: int) -> None:
    """Fix everything that decides the last bit of a sum: the number of CPU threads, and deterministic algorithms."""
    # Huge pages: otherwise large batches wait for page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    torch.set_num_threads(threads)
    # Some CUDA operations have no deterministic form; they only warn.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it only costs time


def join(device: torch.device, ranks: Ranks) -> None:
    """Connect to the other ranks, with this one on ``device``: gloo between CPUs, and NCCL between GPUs."""
    if ranks.count == 1 or torch.distributed.is_initialized():
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    # Small values always travel between CPUs, where no rank has to wait for a GPU.
    heeding(lambda: torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=RANK_TIMEOUT))


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
