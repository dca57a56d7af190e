"""What one check found."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """One row of the table. A warning leaves something out or slow; a failure stops some work."""

    check: str
    status: Status
    found: str
    fix: str = ""
