"""Runs that the mirror sent while they trained, and what the export makes of them."""

import json
import os
from pathlib import Path

from m2mkd.results.judge.results import Results
from m2mkd.tracking.entry import Point
from m2mkd.tracking.live import order_of
from m2mkd.tracking.mlflow_export import sync
from m2mkd.tracking.mlflow_mirror import MirroredRun, MlflowMirror, claim
from m2mkd.tracking.store import open_store
from tests.fabricated import first
from tests.unit.tracking.stored import counts, numbers, tags
from tests.wiring import plan_of


def mirror(study, run, lines, **changes):
    """A run as a training that goes on would have left it in the store, with so many lines of its curves."""
    curves = (Path(study.folder(run.id)) / "metrics.jsonl").read_text().splitlines()[:lines]
    with open_store("m2mkd/smoke") as store:
        entry = MirroredRun(order_of(*plan_of(study, run))).entry
        made = claim(store, entry)
        points = [Point(name, changes.get(name, value), line["epoch"]) for line in map(json.loads, curves) for name, value in line.items()]
        store.log_points(made.info.run_id, made.info.start_time, [point for point in points if point.name in ("lr", "loss")], entry.params)
    return made.info.run_id


def test_a_mirrored_run_is_completed(synced):
    expected = numbers()
    run = first(synced, "train_student")
    Path("results/mlflow.db").unlink()
    mirrored = mirror(synced, run, 2)
    assert mirrored == mirror(synced, run, 2)  # sent twice, as after an interruption
    sync(Results.read(synced))
    assert [entry["id"] for entry in tags("run") if entry["key"] == run.key] == [mirrored]
    assert numbers() == expected


def test_a_mirror_that_comes_late_adds_nothing(synced):
    """A process that follows a short job may look at the store for the first time when the run has been brought there."""
    before = counts()
    run = first(synced, "train_student")
    mirror = MlflowMirror({"experiment": "m2mkd/smoke", "seconds": 0, "runs": [order_of(*plan_of(synced, run))]}, os.getppid())
    assert mirror.turn(last=True)
    assert counts() == before


def test_a_mirrored_run_with_other_numbers_is_replaced(synced):
    expected = numbers()
    run = first(synced, "train_student")
    Path("results/mlflow.db").unlink()
    mirrored = mirror(synced, run, 2, loss=9.0)
    sync(Results.read(synced))
    assert mirrored not in [entry["id"] for entry in tags("run")]
    assert numbers() == expected


def test_two_runs_of_the_same_become_one(synced):
    expected = numbers()
    run = first(synced, "train_student")
    with open_store("m2mkd/smoke") as store:
        store.look()
        (twin,) = [run for runs in store.listed.values() for run in runs if run.data.tags["key"] == first(synced, "train_student").key][:1]
        store.client.create_run(store.experiment_id, tags=twin.data.tags)
    assert len([entry for entry in tags("run") if entry["key"] == run.key]) == 2
    sync(Results.read(synced))
    assert numbers() == expected
    assert len({tuple(sorted(entry.items())) for entry in tags("run") if entry["key"] == run.key}) == 1
