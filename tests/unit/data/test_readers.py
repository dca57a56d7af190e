"""Whatever a file does to the process that reads it is one line, and does nothing to anybody else."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from m2mkd.data.readers import READ_ITEMS, READ_SECONDS, reading
from m2mkd.errors import InputError


def allocating(size: int) -> int:
    return len(bytearray(size))


def spinning() -> None:
    while True:
        pass


def crashing() -> None:
    os.abort()


def ended_by_the_system() -> None:
    os.kill(os.getpid(), 9)


def refusing() -> None:
    raise InputError("a set.zip: is no archive; fetch it again")


def squares(numbers: Sequence[int]) -> list[int]:
    return [number**2 for number in numbers]


def crashing_at_a_hundred(numbers: Sequence[int]) -> list[int]:
    if 100 in numbers:
        os.abort()
    return squares(numbers)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.zip").write_bytes(bytes(1000))
    return Path("set.zip")


MEMORY = 64 << 20
"""Bytes that a reader has in these tests."""
HARM = {"memory": (allocating, 96 << 20), "time": (spinning,), "a crash": (crashing,), "the system": (ended_by_the_system,)}


@pytest.mark.parametrize("harm", HARM)
def test_what_a_file_does_to_its_reader_is_one_line(file: Path, harm: str):
    start = time.monotonic()
    with (
        reading(1, [file], memory=MEMORY, seconds=0.3) as pool,
        pytest.raises(InputError, match=r"^set\.zip: its content took more memory or time .*; fetch the original"),
    ):
        pool.read(*HARM[harm])
    assert time.monotonic() - start < 60
    assert [path.name for path in Path().iterdir()] == ["set.zip"], "not even what a crash leaves"


def test_a_large_file_has_more_memory_and_time(file: Path):
    with file.open("wb") as large:
        large.truncate(4 << 30)  # takes no room
    with reading(1, [file], memory=MEMORY) as pool:
        assert pool.read(allocating, 96 << 20) == 96 << 20
        assert pool._seconds > 800


def test_a_file_that_is_mapped_takes_its_own_room(file: Path):
    with file.open("wb") as large:
        large.truncate(128 << 20)
    with reading(1, [file], mapped=True, memory=MEMORY) as pool:
        assert pool.read(allocating, 160 << 20) == 160 << 20


def test_a_refusal_is_that_of_the_reader(file: Path):
    with reading(1, [file]) as pool, pytest.raises(InputError, match=r"^a set\.zip: is no archive; fetch it again$"):
        pool.read(refusing)


def test_results_come_in_their_order(file: Path):
    with reading(2, [file]) as pool:
        assert list(pool.in_order(squares, range(5 * READ_ITEMS + 3))) == [number**2 for number in range(5 * READ_ITEMS + 3)]
        assert list(pool.in_order(squares, [])) == []


def test_an_interruption_is_not_kept_waiting(file: Path):
    """By what is still read: the listing of a large archive takes minutes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that a shell starts in the background ignore it
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    try:
        with reading(1, [file]) as pool, pytest.raises(KeyboardInterrupt):
            pool.read(spinning)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < READ_SECONDS


def test_a_crash_in_the_midst_of_many(file: Path):
    with reading(1, [file]) as pool:
        results = pool.in_order(crashing_at_a_hundred, range(1000))
        assert [next(results) for _ in range(READ_ITEMS)] == [number**2 for number in range(READ_ITEMS)]
        with pytest.raises(InputError, match="crashed the reader"):
            next(results)
