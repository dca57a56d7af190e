"""Names of rows and runs: they sort by arm, and no two rows of a study have the same."""

import pytest

from m2mkd.study.lineage import display_rows
from m2mkd.study.run import RowName
from m2mkd.tracking.names import distinct, row_label, run_label
from tests.fabricated import first, plan

EXPERIMENTS = ["teacher_deit_large", "vmoe_base", "nac_tiny_imagenet_scale_free", "ood_tiny_imagenet_r", "coco_vmoe_base", "ablation_tau"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan(tmp_path, "smoke", EXPERIMENTS, seeds=2)


def test_rows_are_called_as_people_call_them(study):
    labels = {f"{row.experiment}/{row.variant}": row_label(row.name, study.runs[row.trained[0]].config) for row in study.rows}
    wanted = {
        "teacher_deit_large/teacher": "teacher, ViT",
        "vmoe_base/m2mkd": "m2mKD, V-MoE",
        "vmoe_base/end_to_end_300": "end to end 300, V-MoE",
        "nac_tiny_imagenet_scale_free/m2mkd": "m2mKD, NAC Scale-Free",
        "ood_tiny_imagenet_r/nac_tiny_imagenet_scale_free/m2mkd": "m2mKD, NAC Scale-Free, ood_tiny_imagenet_r",
        "coco_vmoe_base/random": "random, V-MoE detector",
        "ablation_tau/tau_4": "tau 4, V-MoE, ablation_tau",
    }
    assert {name: labels[name] for name in wanted} == wanted
    assert len(set(labels.values())) == len(labels)
    released = row_label(RowName("vmoe_base", "m2mkd", "released"), first(study, "train_student").config)
    assert released == "m2mKD, V-MoE, released"


def test_rows_that_would_share_a_label_name_their_experiments():
    one, two, three = (RowName(name, "m2mkd", "corrected") for name in ("one", "two", "three"))
    labels = distinct({one: "m2mKD, V-MoE", two: "m2mKD, V-MoE", three: "m2mKD, NAC"})
    assert labels == {one: "m2mKD, V-MoE (one)", two: "m2mKD, V-MoE (two)", three: "m2mKD, NAC"}


def test_runs_have_the_name_of_their_row_their_seed_and_their_phase(study):
    labels = {row.name: row_label(row.name, study.runs[row.trained[0]].config) for row in study.rows}
    shown = display_rows(study)
    names = [run_label(labels[shown[run.id]], run) for run in study.runs.values() if shown[run.id] in labels]
    assert len(set(names)) == len(names) > 50
    assert {"m2mKD, V-MoE, seed 0", "m2mKD, V-MoE, seed 1, distillation of module 2", "m2mKD, V-MoE, seed 0, evaluation"} < set(names)
    assert {"teacher, ViT, meta model", "teacher, ViT, incubation of module 1"} < set(names)
