"""Result of one check."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """Row of the table. After a warning something is left out or slow; after a failure some work cannot be done."""

    check: str
    status: Status
    found: str
    fix: str = ""
