"""A detector whose training is killed at any instant, again and again, comes to the bits of an undisturbed one."""

import random

import pytest

from tests import forked_detector
from tests.forked import KilledAt

INSTANTS = [
    KilledAt("update", 2),
    KilledAt("checkpoint write", 40),
    KilledAt("checkpoint rename", 1),
    KilledAt("update", 4),
    KilledAt("record rename", 1),
    KilledAt("final rename", 2),
]
"""In the order in which one job meets them, each after resuming from the one before."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return forked_detector.project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def undisturbed(root):
    """Outputs of one rank and of two, by their number."""
    found = {}
    for ranks in (1, 2):
        forked_detector.forget(root)
        assert forked_detector.run(root, ranks=ranks) == [0] * ranks, (root / "log.0").read_text()[-3000:]
        found[ranks] = forked_detector.outputs(root)
        assert set(found[ranks]) == {"model.safetensors", "metrics.jsonl", "metrics.json"}
    forked_detector.forget(root)
    return found


def killed(root, instant, ranks=1):
    """Whether the job was killed, not finished before."""
    codes = forked_detector.run(root, instant, ranks)
    assert codes[0] in (0, -9), (root / "log.0").read_text()[-3000:]
    return codes[0] == -9


def test_kills_at_chosen_instants_cost_no_bit(root, undisturbed):
    for instant in INSTANTS:
        assert killed(root, instant), f"the job never came to {instant}"
    assert forked_detector.run(root) == [0], (root / "log.0").read_text()[-3000:]
    assert forked_detector.outputs(root) == undisturbed[1]
    forked_detector.forget(root)


def test_kills_at_random_instants_cost_no_bit(root, undisturbed):
    draw, killings = random.Random(0), 0
    for _ in range(6):
        killings += killed(root, KilledAt("seconds", draw.uniform(0.05, 0.6)))
    assert killings, "each was over before it could be killed"
    assert forked_detector.run(root) == [0], (root / "log.0").read_text()[-3000:]
    assert forked_detector.outputs(root) == undisturbed[1]
    forked_detector.forget(root)


def test_killed_ranks_cost_no_bit(root, undisturbed):
    assert killed(root, KilledAt("update", 5), 2)
    assert forked_detector.run(root, ranks=2) == [0, 0], (root / "log.0").read_text()[-3000:]
    assert forked_detector.outputs(root) == undisturbed[2]
    forked_detector.forget(root)
