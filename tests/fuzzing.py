"""Damage at random, the same at every run, and what may come of it. ``M2MKD_FUZZ=20`` tries twenty times as much."""

import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from m2mkd.data.images import BadImageError
from m2mkd.errors import InputError

MORE = int(os.environ.get("M2MKD_FUZZ", "1"))
SECONDS, KIBIBYTES = 20, 1 << 20
"""Most that a damaged file may take on a processor, and of memory."""


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """So many examples, the same at every run."""
    return settings(max_examples=examples * MORE, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


SPECIAL = [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\0",
    b"-1",
    b"9" * 20,
    b"\n",
    b"\x1b[2J",
    b"../",
    b"%s{}",
]
EDIT = st.tuples(
    st.sampled_from(["flip", "overwrite", "insert", "delete", "repeat", "cut"]),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.sampled_from(SPECIAL), st.binary(min_size=1, max_size=8)),
    st.integers(1, 64),
)
EDITS = st.lists(EDIT, min_size=1, max_size=4)


def damaged(content: bytes, edits: list[tuple[str, float, bytes, int]]) -> bytes:
    """Content with some edits, each at a share of its length."""
    for kind, share, value, count in edits:
        at = int(share * len(content))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << count % 8)]) + content[at + 1 :]
        elif kind == "overwrite":
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + count :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + count] * 3 + content[at + count :]
        else:
            content = content[:at]
    return content


@contextmanager
def refused_or_read() -> Iterator[None]:
    """Nothing but a refusal of one line comes out, in little time and memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn of much that they then read
        try:
            yield
        except (InputError, BadImageError) as refused:
            said = str(refused)
        else:
            said = "; "
    assert "\n" not in said and len(said) < 2000
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIBIBYTES
