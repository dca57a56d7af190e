"""Last measurements of a training, read from the end of its ``metrics.jsonl`` while it is written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2mkd.config.strict import PARSERS_ERRORS

TAIL_BYTES = 1 << 14
"""Bytes at the end of a log that are read; they hold the last accuracy, too."""
ACCURACIES = {"val_top1": ("top-1", 100.0, " %"), "val_boxes_AP": ("box AP", 100.0, "")}
"""Label, factor and unit of the accuracies that are shown."""


class Curve:
    """The end of one log, read again when it has changed.

    Parameters
    ----------
    path
        ``metrics.jsonl`` of a run.
    epochs, updates
        Length of the training, where it has a length in these.
    """

    def __init__(self, path: Path, epochs: int | None, updates: int | None):
        self.path, self.epochs, self.updates = path, epochs, updates
        self._stamp: tuple[int, int] | None = None
        self.last: dict[str, Any] = {}
        """Last line, with the accuracies of the last line that has some."""

    def read(self) -> None:
        """Look for new lines; a file that is absent or damaged is left to its job."""
        try:
            state = self.path.stat()
            stamp = (state.st_size, state.st_mtime_ns)
            if stamp == self._stamp:
                return
            with self.path.open("rb") as file:
                file.seek(max(0, state.st_size - TAIL_BYTES), os.SEEK_SET)
                lines = file.read().split(b"\n")[1 if state.st_size > TAIL_BYTES else 0 : -1]
        except OSError:
            return
        self._stamp = stamp
        for line in lines:
            try:
                content = json.loads(line)
            except PARSERS_ERRORS:
                continue
            if isinstance(content, dict):
                self.last = {name: value for name, value in self.last.items() if name in ACCURACIES} | content

    @property
    def share(self) -> float:
        """Part of the training that is done, from 0 to 1."""
        if self.updates:
            return min(1.0, self.last.get("step", 0) / self.updates)
        return min(1.0, self.last.get("epoch", 0) / self.epochs) if self.epochs else 0.0

    @property
    def position(self) -> str:
        """Epoch or update of the last line, such as ``epoch 3/12``."""
        if not self.last:
            return ""
        if self.updates:
            return f"update {self.last.get('step', 0):,}/{self.updates:,}"
        return f"epoch {self.last.get('epoch', 0)}/{self.epochs}"

    @property
    def measured(self) -> str:
        """Loss and accuracy of the last line."""
        return measured_in_words(self.last)


def measured_in_words(found: Mapping[str, Any]) -> str:
    """Loss and accuracy, such as ``loss 0.812  top-1 71.2 %``; what is not there is left out."""
    loss = found.get("loss")
    words = [f"loss {loss:.3g}"] if isinstance(loss, int | float) else []
    for name, (label, factor, unit) in ACCURACIES.items():
        if isinstance(value := found.get(name), int | float):
            words.append(f"{label} {factor * value:.1f}{unit}")
    return "  ".join(words)
