"""Errors of data-loading worker processes."""

from collections.abc import Iterator
from typing import TypeVar

from m2mkd.errors import InputError

Loaded = TypeVar("Loaded")


def refused_in_one_line(batches: Iterator[Loaded]) -> Iterator[Loaded]:
    """Yield a loader's batches; an input error of a worker process is raised again without torch's traceback in its text.

    Raises
    ------
    InputError
        The worker's error.
    """
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")[2]) from None
