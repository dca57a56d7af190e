"""Checkpoints: whole or not at all, the newest two and the best, and what happens to a damaged one."""

import os
import threading

import pytest
import torch

from m2mkd.training import checkpoint
from m2mkd.training.checkpoint import Checkpoints
from m2mkd.training.machine import Policy


@pytest.fixture
def said():
    return []


@pytest.fixture
def checkpoints(tmp_path, said):
    return Checkpoints(tmp_path, Policy(), said.append)


def save(checkpoints, *updates, best=()):
    for number in updates:
        checkpoints.save(number, {"w": torch.full((3,), float(number))}, best=number in best)
    checkpoints.wait()


def names(folder):
    return sorted(path.name.partition(".")[0] for path in folder.iterdir())


def test_the_last_two_and_the_best_are_kept(checkpoints, tmp_path):
    save(checkpoints, 3, 6, 9, 12, best=(3, 6))
    assert names(tmp_path) == ["best1-000000006", "checkpoint1-000000009", "checkpoint1-000000012"]
    assert checkpoints.restore()["w"].tolist() == [12.0] * 3


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_one_is_told_and_the_one_before_is_used(checkpoints, tmp_path, said, damage):
    save(checkpoints, 3, 6)
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[-1] ^= 1
    newest.write_bytes(content)
    assert checkpoints.restore()["w"].tolist() == [3.0] * 3
    assert len(said) == 1 and newest.name in said[0] and "damaged" in said[0]
    assert names(tmp_path) == ["checkpoint1-000000003"]


def test_the_best_serves_where_the_last_two_are_damaged(checkpoints, tmp_path, said):
    save(checkpoints, 3, 6, 9, best=(3,))
    for path in tmp_path.glob("checkpoint*"):
        path.write_bytes(b"")
    assert checkpoints.restore()["updates"] == 3
    assert len(said) == 2


def test_nothing_is_restored_from_nothing(checkpoints):
    assert checkpoints.restore() is None


def test_what_an_interrupted_write_left_is_removed(tmp_path):
    (tmp_path / ".checkpoint.123").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, Policy(), print)
    assert list(tmp_path.iterdir()) == []
    assert checkpoints.restore() is None


def test_training_goes_on_while_a_copy_is_written(checkpoints, monkeypatch):
    may_write = threading.Event()
    fsync = os.fsync
    monkeypatch.setattr(checkpoint.os, "fsync", lambda number: may_write.wait(10) and fsync(number))
    weight = torch.ones(3)
    checkpoints.save(1, {"nested": [{"w": weight}]})
    weight.zero_()
    assert not checkpoints.due(10**9)  # one write at a time
    may_write.set()
    checkpoints.wait()
    assert checkpoints.restore()["nested"][0]["w"].tolist() == [1.0] * 3


def test_a_full_disk_is_told_at_the_next_save(checkpoints, monkeypatch, tmp_path):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        checkpoints.save(1, {"w": torch.ones(3)})
        with pytest.raises(OSError, match="No space left"):
            checkpoints.wait()
    assert list(tmp_path.iterdir()) == []
    save(checkpoints, 2)
    assert checkpoints.restore()["updates"] == 2


def test_it_is_due_by_updates_or_by_time(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    checkpoints = Checkpoints(tmp_path, Policy(minutes=2.0, updates=10), print)
    assert [checkpoints.due(updates) for updates in (1, 9, 10)] == [False, False, True]
    save(checkpoints, 10)
    now = 119.0
    assert not checkpoints.due(19)
    now = 120.0
    assert checkpoints.due(19)
