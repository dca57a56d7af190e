"""The state of a training between two steps, on disk."""

from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn
from torch.optim import Optimizer

from m2mkd.files import write_atomically

NAME = "checkpoint.pt"


def save(folder: Path, module: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, progress: dict[str, Any]) -> None:
    """Write everything that the next step depends on. Random states are not in it: they follow from names and step numbers."""
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), "progress": progress}

    def write(file: BinaryIO) -> None:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch hides what the system said, such as that the disk is full.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    write_atomically(folder / NAME, write)


def load(
    folder: Path, module: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, device: torch.device
) -> dict[str, Any] | None:
    """Restore what ``save`` wrote; none if there is nothing to restore.

    Returns
    -------
    dict or None
        The progress that was saved.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    state = torch.load(path, map_location=device, weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    return state["progress"]
