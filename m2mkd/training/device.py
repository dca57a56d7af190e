"""Where and in which precision a job computes."""

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
"""Time that a rank waits for the others, such as for the first one to measure or to get hold of a lock."""


def choose_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device of that name: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which takes a GPU where there is one.

    Of several ranks on a machine, each has the GPU of its number there.

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
    if ranks.count > 1 and name.startswith("cuda:"):
        raise InputError(f"--device {name}: each of {ranks.count} ranks has a GPU of its own; use --device cuda, and CUDA_VISIBLE_DEVICES")
    if ranks.count > 1 and name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', ranks.rank)}"
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


def join(device: torch.device, ranks: Ranks) -> None:
    """Meet the other ranks, this one computing on ``device``: gloo between CPUs, and NCCL between GPUs."""
    if ranks.count == 1 or torch.distributed.is_initialized():
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    # Small numbers go between CPUs in any case, where nobody has to wait for a GPU.
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
