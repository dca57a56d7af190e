"""What Snakemake prints, followed in its file: news of planning, and the logs of jobs that failed."""

import re
from collections import Counter
from pathlib import Path

from m2mkd.errors import printable

STARTED = re.compile(r"^(Job stats:|Nothing to be done)")
"""Line with which planning is over."""
FAILED = re.compile(r"^Error in rule \w+:")
LOG = re.compile(r"^    log: (.+?)(?:, \S+)* \(check log file")
"""Line of the description of a failure that names the job's log."""
NEWS = "m2mkd: "
"""How lines begin that planning printed for people."""

LOG_TAIL_BYTES = 1 << 12
"""Bytes at the end of a log in which its last line is looked for."""


class SnakemakeLog:
    """The file that Snakemake prints to, read from where the last look ended.

    Parameters
    ----------
    path
        May be absent.
    """

    def __init__(self, path: Path):
        self.path = path
        self.planned = False
        """True once the jobs are planned."""
        self.failures: Counter[str] = Counter()
        """Failures by the path of the job's log."""
        self._offset, self._rest, self._in_failure = 0, "", False

    def read(self) -> list[str]:
        """News of planning since the last look."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return []
        self._offset += len(new)
        *lines, self._rest = (self._rest + new.decode(errors="replace")).split("\n")
        return [line.removeprefix(NEWS) for line in lines if self._is_news(line)]

    def _is_news(self, line: str) -> bool:
        if STARTED.match(line):
            self.planned = True
        if FAILED.match(line):
            self._in_failure = True
        elif self._in_failure and (found := LOG.match(line)):
            self.failures[found[1]] += 1
            self._in_failure = False
        return line.startswith(NEWS) and not self.planned

    def end(self, lines: int) -> list[str]:
        """Last lines of the file that are not empty."""
        try:
            text = self.path.read_text(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-lines:]


def last_line(log: Path) -> str:
    """Last line of a log that is not empty, as one line that a terminal shows and does not obey."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return printable(next((line for line in reversed(lines) if line.strip()), ""))
