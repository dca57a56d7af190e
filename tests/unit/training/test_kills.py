"""A job that is killed at any instant, again and again, comes to the bits of an undisturbed one."""

import os
import random
import re
import signal
import subprocess
import time

import psutil
import pytest

from m2mkd.errors import INTERRUPTED
from tests import forked
from tests.conftest import ROOT
from tests.forked import KilledAt

INSTANTS = [
    KilledAt("update", 5),
    KilledAt("checkpoint write", 40),
    KilledAt("checkpoint rename", 2),
    KilledAt("log line without checkpoint", 1),
    KilledAt("removal of an old checkpoint", 1),
    KilledAt("record rename", 1),
    KilledAt("final rename", 3),
    KilledAt("removal of the work folder", 1),
]
"""In the order in which one job meets them, each after resuming from the one before."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return forked.project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def undisturbed(root):
    """Outputs of one rank and of two, by their number."""
    found = {}
    for ranks in (1, 2):
        forked.forget(root)
        assert forked.run(root, ranks=ranks) == [0] * ranks, (root / "log.0").read_text()[-3000:]
        found[ranks] = forked.outputs(root)
        assert set(found[ranks]) == {"model.safetensors", "metrics.jsonl", "metrics.json"}
        assert forked.record(root)["provenance"]["ranks"] == ranks
    forked.forget(root)
    return found


def kill_at(root, instant, ranks):
    """Whether the job was killed, not finished before."""
    codes = forked.run(root, instant, ranks)
    if codes[0] == 0:
        return False
    assert codes[0] == -9, (root / "log.0").read_text()[-3000:]
    # The others notice by themselves, unless they had nothing left to do.
    assert set(codes[1:]) <= {0, 1}
    return True


def finish(root, expected, ranks):
    assert forked.run(root, ranks=ranks) == [0] * ranks, (root / "log.0").read_text()[-3000:]
    compare(root, expected)


def compare(root, expected):
    assert forked.outputs(root) == expected
    work = root / "results/smoke/work/train_student"
    assert [path for path in work.rglob("*") if path.is_file() and path.suffix != ".lock" and path.parent.suffix != ".done"] == []
    forked.forget(root)


def test_eight_kills_cost_no_bit(root, undisturbed):
    for instant in INSTANTS:
        assert kill_at(root, instant, 1), f"the job never came to {instant}"
    finish(root, undisturbed[1], 1)


def test_two_kills_of_two_ranks_cost_no_bit(root, undisturbed):
    for instant in (KilledAt("checkpoint write", 40), KilledAt("update", 4)):
        assert kill_at(root, instant, 2), f"the job never came to {instant}"
    finish(root, undisturbed[2], 2)


def start(root, log, *options):
    """Type the command of a training that does not end by itself; gives it once it has written a checkpoint that was not there before."""

    def newest():
        return max((path.name for path in root.glob("results/smoke/work/train_student/*/checkpoint*")), default=None)

    before = newest()
    with (root / log).open("w") as output:
        typed = [*forked.command(recipes={"vmoe_end_to_end_100": {"epochs": 1000}}), *options]
        process = subprocess.Popen(typed, cwd=root, stderr=output, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 90
    while newest() == before:
        assert process.poll() is None, (root / log).read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_a_dead_rank_ends_the_others_and_is_named(root):
    forked.forget(root)
    process = start(root, "killed", "--ranks", "2")
    (second,) = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
    second.kill()
    assert process.wait(30) == 1
    assert (root / "killed").read_text().splitlines()[-1] == (
        "m2mkd: rank 1 was ended by SIGKILL, so the others were ended too; the same command resumes from the last checkpoint"
    )


@pytest.mark.parametrize(("number", "options"), [(signal.SIGTERM, ("--ranks", "2")), (signal.SIGUSR1, ())])
def test_a_signal_saves_and_leaves_with_the_code_that_says_so(root, number, options):
    process = start(root, "signalled", *options)
    process.send_signal(number)
    assert process.wait(30) == INTERRUPTED
    (line,) = [line for line in (root / "signalled").read_text().splitlines() if line.startswith("m2mkd: ")]
    found = re.fullmatch(rf"m2mkd: stopped by {number.name}: saved after (\d+) updates; the same command resumes from there", line)
    newest = max(path.name for path in root.glob("results/smoke/work/train_student/*/checkpoint*"))
    assert int(found[1]) == int(newest.partition("-")[2].partition(".")[0])


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "kills"), [(1, 50), (2, 10)])
def test_kills_at_random_instants_cost_no_bit(root, undisturbed, ranks, kills):
    generator, done, finished = random.Random(ranks), [], 0
    while len(done) < kills or not finished:
        # Ranks that have not met yet would wait for each other; the launcher sees to them.
        kind = generator.choice([*forked.EVENTS, *(["seconds", "seconds"] if ranks == 1 else [])])
        number = generator.uniform(0.0, 2.0) if kind == "seconds" else generator.randint(1, forked.EVENTS[kind])
        instant = KilledAt(kind, number)
        if kill_at(root, instant, ranks):
            done.append(instant)
        else:
            compare(root, undisturbed[ranks])
            finished += 1
    finish(root, undisturbed[ranks], ranks)
    assert {instant.event for instant in done} == {*forked.EVENTS, "seconds"} or kills < 50, done
