"""``metrics.jsonl``: one line per epoch, appended during training; everything else is derived from it."""

import json
from pathlib import Path
from typing import Any

from m2mkd.errors import InputError
from m2mkd.files import naming, to_disk


class Curves:
    """Append-only log of one training, cut back to a checkpoint's cursor when it resumes."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def cut(self, size: int) -> None:
        """Remove everything after the first ``size`` bytes of the log.

        Raises
        ------
        InputError
            If the log is shorter, which no interruption can cause.
        """
        with self.path.open("ab") as file:
            if file.tell() < size:
                raise InputError(
                    f"{self.path}: is shorter than its checkpoint says; remove {self.path.parent} and run the same command again"
                )
            file.truncate(size)

    def append(self, line: dict[str, Any]) -> int:
        """Write one line and return the size of the log in bytes."""
        with naming(self.path), self.path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            to_disk(file)
            return file.tell()


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Lines of a log, parsed."""
    return [json.loads(line) for line in path.read_text().splitlines()]
