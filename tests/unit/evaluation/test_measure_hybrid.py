"""The meta model with each of the teacher's modules in its place, measured before a student is taught by them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from m2mkd.data.stream import eval_batches
from m2mkd.evaluation.accuracy import measure
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.records import Record
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.study.lineage import display_rows
from m2mkd.training.machine import Machine
from m2mkd.training.phases import measure_hybrid
from tests.tiny import TinyPack, noise, of_phase, smoke, vit
from tests.wiring import job_with, run_phase


@pytest.mark.parametrize(
    ("experiment", "measured"),
    [("vmoe_base/m2mkd", 1), ("vmoe_base/end_to_end", 0), ("vmoe_base/pure_kd", 0), ("vmoe_base_labels_only/modules", 0)],
)
def test_it_belongs_to_every_study_that_distills_modules_with_a_teacher(experiment, measured):
    planned = smoke(experiment)
    runs = of_phase(planned, "measure_hybrid")
    assert len(runs) == measured
    for run in runs:
        assert display_rows(planned)[run.id] == ("teacher_deit_large", "teacher", "corrected")
        assert run.upstream["teacher"] == next(run.upstream["teacher"] for run in planned.runs.values() if run.phase == "split_teacher")


def test_one_run_serves_both_families_of_students():
    planned = smoke("vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free/m2mkd")
    assert sum(run.phase == "measure_hybrid" for run in planned.runs.values()) == 1


@pytest.fixture
def measured(monkeypatch):
    """A measurement of untrained networks on noise: its run, the study, both networks, the images and the outcome."""
    planned = smoke("vmoe_base/m2mkd")
    run = of_phase(planned, "measure_hybrid")[0]
    networks = {"meta": vit(run.config.meta, "meta"), "teacher": vit(run.config.model, "teacher")}
    split = noise(30)
    split = replace(split, labels=np.random.default_rng(1).permutation(split.labels))
    workers = []
    monkeypatch.setattr(measure_hybrid, "eval_batches", lambda *of, **by: workers.append(by["workers"]) or eval_batches(*of, **by))
    upstream = {name: [network.state_dict()] for name, network in networks.items()}
    machine = Machine(torch.device("cpu"), workers=2)
    outcome = run_phase(job_with(run.config, upstream, packs=lambda data: TinyPack(split), machine=machine))
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
    table = hybrids_table(Collected(planned, (Record(run, outcome.metrics, [], {}, ""),)))
    assert [row[3] for row in table.rows] == ["none", "0", "1", "2", "3"]
    assert {row[:3] for row in table.rows} == {("teacher_deit_large", "corrected", "digits@32")}
    assert list(table.exact["top1"]) == [
        outcome.metrics["meta"]["top1"],
        *(hybrid["top1"] for hybrid in outcome.metrics["hybrids"].values()),
    ]
    assert table.rows[0][5] == f"{100 * outcome.metrics['meta']['top1']:.2f}"
