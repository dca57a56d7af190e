"""The meta model with each of the teacher's modules in its place, measured before a student is taught by them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2mkd.config import load
from m2mkd.data.pack import Split
from m2mkd.data.stream import eval_batches
from m2mkd.evaluation.accuracy import measure
from m2mkd.models.vit import StagedViT
from m2mkd.results.read.records import Record
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.seeds import forked_rng
from m2mkd.study.lineage import display_rows
from m2mkd.study.plan import build_study
from m2mkd.training.job import Job
from m2mkd.training.machine import Machine
from m2mkd.training.phases import measure_hybrid


def study(*experiments):
    return build_study(load.settings({"scale": "smoke", "experiments": experiments}))


@pytest.mark.parametrize(
    ("experiment", "measured"),
    [("vmoe_base/m2mkd", 1), ("vmoe_base/end_to_end", 0), ("vmoe_base/pure_kd", 0), ("vmoe_base_labels_only/modules", 0)],
)
def test_it_belongs_to_every_study_that_distills_modules_with_a_teacher(experiment, measured):
    planned = study(experiment)
    runs = [run for run in planned.runs.values() if run.phase == "measure_hybrid"]
    assert len(runs) == measured
    for run in runs:
        assert display_rows(planned)[run.id] == ("teacher_deit_large", "teacher", "corrected")
        assert run.upstream["teacher"] == next(run.upstream["teacher"] for run in planned.runs.values() if run.phase == "split_teacher")


def test_one_run_serves_both_families_of_students():
    planned = study("vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free/m2mkd")
    assert sum(run.phase == "measure_hybrid" for run in planned.runs.values()) == 1


@pytest.fixture
def measured(monkeypatch):
    """A measurement of untrained networks on noise: its run, the study, both networks, the images and the outcome."""
    planned = study("vmoe_base/m2mkd")
    run = next(run for run in planned.runs.values() if run.phase == "measure_hybrid")
    networks = {}
    for name, config in (("meta", run.config.meta), ("teacher", run.config.model)):
        with forked_rng(name):
            networks[name] = StagedViT(config, image_size=32, num_classes=10).eval()
    generator = np.random.default_rng(0)
    split = Split(generator.integers(0, 255, (300, 32, 32, 3), dtype=np.uint8), generator.integers(0, 10, 300))
    pack = SimpleNamespace(split=lambda name: split, image_size=32)
    monkeypatch.setattr(measure_hybrid, "open_data", lambda data: pack)
    monkeypatch.setattr(measure_hybrid, "load_weights", lambda folder: networks[folder.name].state_dict())
    folders = {"meta": (Path("meta"),), "teacher": (Path("teacher"),)}
    workers = []
    monkeypatch.setattr(measure_hybrid, "eval_batches", lambda *of, **by: workers.append(by["workers"]) or eval_batches(*of, **by))
    outcome = measure_hybrid.run(Job(run.config, 0, folders, Path("work"), lambda: Machine(torch.device("cpu"), workers=2), "test"))
    assert workers == [2]
    return planned, run, networks["meta"], networks["teacher"], split, outcome


def test_each_module_is_measured_in_its_own_place(measured):
    _, _, meta, teacher, split, outcome = measured

    def accuracy(stages):
        return measure(torch.nn.Sequential(*stages), eval_batches(split, 32, 256), torch.device("cpu")).summary()

    assert outcome.metrics["meta"] == accuracy(meta.stages)
    assert list(outcome.metrics["hybrids"]) == ["0", "1", "2", "3"]
    for index in range(4):
        stages = [*meta.stages[:index], teacher.stages[index], *meta.stages[index + 1 :]]
        assert outcome.metrics["hybrids"][str(index)] == accuracy(stages)
    losses = {found["loss"] for found in outcome.metrics["hybrids"].values()}
    assert len(losses | {outcome.metrics["meta"]["loss"]}) == 5


def test_the_table_has_a_line_for_each_module_and_one_for_the_meta_model_alone(measured):
    planned, run, *_, outcome = measured
    table = hybrids_table(planned, [Record(run, 0, outcome.metrics, [], {}, "")])
    assert [row[3] for row in table.rows] == ["none", "0", "1", "2", "3"]
    assert {row[:3] for row in table.rows} == {("teacher_deit_large", "corrected", "digits@32")}
    assert list(table.exact["top1"]) == [
        outcome.metrics["meta"]["top1"],
        *(hybrid["top1"] for hybrid in outcome.metrics["hybrids"].values()),
    ]
    assert table.rows[0][5] == f"{100 * outcome.metrics['meta']['top1']:.2f}"
