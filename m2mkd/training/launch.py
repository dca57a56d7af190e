"""Several processes for one training on this machine, by torchrun's own launcher."""

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
"""Of Linux's prctl: the signal that a process gets when its parent has died."""


def ranks_for(config: Phase, wanted: int, device_batch: int | None, arguments: Sequence[str]) -> Ranks:
    """Find out which process this is among those that share a run, or start as many as are wanted.

    The process that launches them ends with their exit code; so does any but the first of those that torchrun started for a run which
    cannot be shared.

    Parameters
    ----------
    config
        The run.
    wanted
        Number of ranks; 1 for those that are there.
    device_batch
        As of `m2mkd.training.machine.Machine`.
    arguments
        Of the command line.

    Raises
    ------
    InputError
        If a batch cannot be divided among them, or another number of them was started already.
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
        # Nobody would end a rank whose launcher was killed.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return here


def run_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run ``m2mkd`` with the same arguments in ``count`` processes, and end all of them as soon as one has failed.

    Returns
    -------
    int
        Exit code: 0, that of the rank that failed first, 75 after a signal, or 1 if a rank was killed.
    """
    # What there is to say, the ranks say, and this function.
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
            _say(f"m2mkd: rank {rank} {why}, so that the others were ended too; the same command goes on from the last checkpoint")
        return code
    return 0


def first_failure(codes: Mapping[int, int]) -> tuple[int, int, str]:
    """Of ranks that failed together, the one that brought down the others: rank, exit code of the whole, and what happened to it.

    A rank that was killed, or refused its input, is the cause; one that only lost its connection, or was ended by the launcher, is not.
    """
    rank = min(codes, key=lambda rank: (codes[rank] in (1, -signal.SIGTERM), codes[rank], rank))
    code = codes[rank]
    return (rank, 1, f"was ended by {signal.Signals(-code).name}") if code < 0 else (rank, code, f"failed with exit code {code}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
