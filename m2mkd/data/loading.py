"""What processes that load batches refuse."""

from collections.abc import Iterator
from typing import TypeVar

from m2mkd.errors import InputError

Loaded = TypeVar("Loaded")


def refused_in_one_line(batches: Iterator[Loaded]) -> Iterator[Loaded]:
    """The batches of a loader; what a process of it refuses is refused in its words, without the trace that torch puts before them.

    Raises
    ------
    InputError
        As that process.
    """
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")[2]) from None
