"""Launch of several processes for one training on this machine, by torchrun's own launcher."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from m2mkd.errors import INTERRUPTED, InputError
from m2mkd.ranks import ALONE, Ranks, started_by_launcher
from m2mkd.study.phase import Phase
from m2mkd.training.machine import accumulation

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process gets when its parent dies."""


def ranks_for(config: Phase, wanted: int, device_batch: int | None, arguments: Sequence[str]) -> Ranks:
    """Find the rank of this process among those that share a run, or start ``wanted`` processes.

    The launching process ends with their exit code; if torchrun started several ranks for a run that cannot be shared, all but the first
    end too.

    Parameters
    ----------
    config
        Configuration of the run.
    wanted
        Number of ranks; 1 for those that already exist.
    device_batch
        See `m2mkd.training.machine.Machine`.
    arguments
        Arguments of the command line.

    Raises
    ------
    InputError
        If a batch cannot be divided among them, or another number of ranks was already started.
    """
    here = Ranks.here()
    if not config.DIVISIBLE:
        return ALONE if here.is_main else sys.exit(0)
    started = started_by_launcher()
    if started and wanted not in (1, here.count):
        raise InputError(f"--ranks {wanted}: this process is one of {here.count} that torchrun started; leave --ranks out")
    recipe = config.recipe  # type: ignore[attr-defined]
    accumulation(recipe.batch_size, here.count if started else wanted, device_batch, recipe.TOGETHER)  # or a refusal
    if wanted > 1 and not started:
        sys.exit(run_ranks(wanted, arguments))
    if here.count > 1 and sys.platform == "linux":
        # Otherwise a rank whose launcher was killed would never end.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return here


def run_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run ``m2mkd`` with the same arguments in ``count`` processes, and end all of them as soon as one fails.

    Returns
    -------
    int
        Exit code: 0, that of the rank that failed first, 75 after a signal, or 1 if a rank was killed.
    """
    # Only the ranks and this function print messages.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    options: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": f"m2mkd-{os.getpid()}"}
    options["signals_to_handle"] = "SIGTERM,SIGINT,SIGHUP,SIGUSR1"
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=count, max_restarts=0, monitor_interval=0.1, **options)
    try:
        elastic_launch(config, sys.executable)("-m", "m2mkd", *arguments)
    except SignalException:
        return INTERRUPTED  # the first rank has said what it saved
    except ChildFailedError as error:
        rank, code, why = first_failure({rank: failure.exitcode for rank, failure in error.failures.items()})
        if code not in (2, INTERRUPTED):
            _say(f"m2mkd: rank {rank} {why}, so the others were ended too; the same command resumes from the last checkpoint")
        return code
    return 0


def first_failure(codes: Mapping[int, int]) -> tuple[int, int, str]:
    """Rank that caused the failure of the others: its number, the exit code of the whole launch, and a description.

    A rank that was killed, or rejected its input, is the cause; one that only lost its connection, or was ended by the launcher, is not.
    """
    rank = min(codes, key=lambda rank: (codes[rank] in (1, -signal.SIGTERM), codes[rank], rank))
    code = codes[rank]
    return (rank, 1, f"was ended by {signal.Signals(-code).name}") if code < 0 else (rank, code, f"failed with exit code {code}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
