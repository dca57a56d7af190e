"""Checkpoints of a training between two updates: written in the background, atomically, and checked when read."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from m2mkd.files import naming, publish, sha256, to_disk
from m2mkd.ranks import ALONE, Ranks
from m2mkd.training.machine import Policy

FORMAT = 1
"""Version of the checkpoint's content, part of its name; checkpoints of another version are ignored."""
KEPT = 2
"""Number of newest checkpoints that are kept, in case one is damaged."""


class Checkpoints:
    """Checkpoints of one training: the newest two, and the one with the best validation.

    Each is a file ``checkpointFORMAT-UPDATES.SHA256.pt``, which appears by being renamed and whose name holds the digest of its bytes.
    Random states are not saved: they follow from names and step numbers.

    Parameters
    ----------
    folder
        Folder of the checkpoints; the remains of an interrupted write are removed.
    policy
        Frequency at which `due` is true.
    say
        Function that reports damaged files.
    ranks
        Processes of the training: the first one writes, all of them read.
    """

    def __init__(self, folder: Path, policy: Policy, say: Callable[[str], object], ranks: Ranks = ALONE):
        self.folder, self.policy, self.say, self.ranks = folder, policy, say, ranks
        self._written: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._time, self._updates = time.monotonic(), 0
        if ranks.is_main:
            for left in folder.glob(".checkpoint*"):
                left.unlink()

    def restore(self) -> dict[str, Any] | None:
        """Newest complete state, on the CPU; None if there is none."""
        path = self.ranks.broadcast(self._newest() if self.ranks.is_main else None)
        if path is None:
            return None
        # The caller moves it to its device. An optimiser's update counters stay on the CPU, even those of parameters on a GPU.
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._updates = state["updates"]
        return state

    def due(self, updates: int) -> bool:
        """True if a checkpoint is due and the previous one is on the disk."""
        if self._written is not None:
            if not self._written.done():
                return False
            self.wait()
        by_number = self.policy.updates is not None and updates - self._updates >= self.policy.updates
        return by_number or time.monotonic() - self._time >= 60 * self.policy.minutes

    def save(self, updates: int, state: Mapping[str, Any], *, best: bool = False) -> None:
        """Copy ``state`` after ``updates`` updates and write it in the background.

        Parameters
        ----------
        updates
            Number of completed updates.
        state
            Nested dictionaries, lists and tuples of tensors and plain values.
        best
            True if its validation result is the best so far.

        Raises
        ------
        OSError
            If the previous write failed, for example on a full disk.
        """
        self._time, self._updates = time.monotonic(), updates
        if not self.ranks.is_main:
            return
        self.wait()
        self._written = self._writer.submit(self._write, updates, _copied(dict(state) | {"updates": updates}), best)

    def wait(self) -> None:
        """Wait until the saved state is on the disk; raises the error of a failed write."""
        if self._written is not None:
            written, self._written = self._written, None
            written.result()

    def close(self) -> None:
        """Finish pending writes; nothing is written afterwards."""
        self._writer.shutdown()

    def _write(self, updates: int, state: dict[str, Any], best: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".checkpoint.{os.getpid()}"
        try:
            with naming(self.folder), temporary.open("wb") as file:
                hashed = _Hashed(file)
                try:
                    torch.save(state, cast(BinaryIO, hashed))
                except RuntimeError as error:
                    # torch hides the system's error message, such as that of a full disk.
                    if isinstance(error.__context__, OSError):
                        raise error.__context__ from None
                    raise
                to_disk(file)
            path = self.folder / f"checkpoint{FORMAT}-{updates:09d}.{hashed.digest}.pt"
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if best:
            publish(path, self.folder / path.name.replace("checkpoint", "best", 1))
            for older in self._found("best")[1:]:
                older.unlink()
        for older in self._found("checkpoint")[KEPT:]:
            older.unlink()

    def _found(self, kind: str) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(f"{kind}{FORMAT}-*.pt"), reverse=True)

    def _newest(self) -> Path | None:
        for path in sorted(self._found("checkpoint") + self._found("best"), key=lambda path: path.name.partition("-")[2], reverse=True):
            if path.name.split(".")[-2] == sha256(path):
                return path
            self.say(f"{path}: is damaged; resuming from the previous checkpoint, if there is one")
            path.unlink()
        return None


class _Hashed:
    """File that is digested while it is written."""

    def __init__(self, file: BinaryIO):
        self._file, self._sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self._sha256.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()


def _copied(value: Any) -> Any:
    """Copy on the CPU that shares no memory, so that training can continue."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    return type(value)(map(_copied, value)) if isinstance(value, list | tuple) else value
