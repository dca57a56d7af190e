"""A pseudo-terminal in which a command is watched as a person would."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.cells import cell_len

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOME = "\x1b[H"
"""With this each picture of the live display begins."""


class Terminal:
    """A command in a terminal of its own, of which it is the foreground.

    Parameters
    ----------
    command, cwd, environment
        What runs there.
    columns, rows
        Size of the terminal.
    """

    def __init__(self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], columns: int, rows: int = 24):
        self._main, there = os.openpty()
        self.text = ""
        """All that was printed."""
        self._size(there, columns, rows)
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environment) | {"TERM": "xterm-256color"},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(there, termios.TIOCSCTTY, 0),  # noqa: PLW1509  no thread runs here
        )
        os.close(there)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._main)

    def _size(self, terminal: int, columns: int, rows: int) -> None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        self._size(self._main, columns, rows)

    def type(self, keys: str) -> None:
        """Type something, such as Ctrl-C."""
        os.write(self._main, keys.encode())

    def read(self, seconds: float) -> bool:
        """Read what is printed; false once nothing will be any more."""
        ready, _, _ = select.select([self._main], [], [], seconds)
        if not ready:
            return True
        try:
            new = os.read(self._main, 1 << 16)
        except OSError:
            return False
        self.text += new.decode(errors="replace")
        return bool(new)

    def wait_for(self, text: str, patience: float = 60) -> list[str]:
        """The first picture from now on that has a text in it, without control sequences, as lines."""
        begun, deadline = len(self.text), time.monotonic() + patience
        while time.monotonic() < deadline and self.read(0.1):
            for picture in self.pictures(begun):
                if text in "\n".join(picture):
                    return picture
        raise AssertionError(f"{text!r} was not shown: {self.text[-3000:]!r}")

    def end(self, patience: float = 60) -> int:
        """Exit status of the command, with all it has printed read."""
        deadline = time.monotonic() + patience
        while self.read(0.1):
            assert time.monotonic() < deadline, f"it does not end: {self.text[-3000:]!r}"
        return self.process.wait(patience)

    def pictures(self, begun: int = 0) -> list[list[str]]:
        """Whole pictures that were drawn since so many characters."""
        return [plain(picture) for picture in self.text[begun:].split(HOME)[1:-1]]

    @property
    def afterwards(self) -> str:
        """What stays in the terminal once the live display is gone."""
        return "\n".join(plain(self.text.rpartition("\x1b[?1049l")[2]))


def plain(text: str) -> list[str]:
    """Lines without control sequences and blanks at their ends."""
    return [line.rstrip() for line in SEQUENCE.sub("", text).replace("\r", "").split("\n")]


def width(picture: Sequence[str]) -> int:
    """Columns of the longest line."""
    return max(map(cell_len, picture))
