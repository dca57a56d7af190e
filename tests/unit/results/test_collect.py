import json
from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.judge.results import Results
from m2mkd.results.report.curve_figures import curve_figures
from m2mkd.study.lineage import display_rows, served_rows
from tests.fabricated import edit_record, finish, first, plan

EXPERIMENTS = ["teacher_deit_large", "vmoe_base/end_to_end", "vmoe_base/m2mkd"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", EXPERIMENTS, seeds=3)
    finish(study)
    return study


def test_frames_hold_every_number(study):
    collected = Results.read(study)
    measuring = [run for run in study.runs.values() if run.phase != "split_teacher"]
    assert len(collected.runs) == len(measuring)
    assert set(collected.runs["run"]) == {run.id for run in measuring}
    found = collected.measurements
    top1 = found[(found["metric"] == "top1") & (found["variant"] == "m2mkd") & (found["rendition"] == "")]
    assert list(top1[top1["split"] == "iid"]["value"]) == [0.90, 0.92, 0.97]
    assert list(top1[top1["split"] == "ood"]["value"]) == [0.45, 0.46, 0.485]
    assert set(top1["count"]) == {1000}
    assert set(found["rendition"]) == {"", "edges", "rotated"}
    assert set(found[found["metric"] == "left_out"]["value"]) == {12.0}


def test_curves_know_module_and_row(study):
    curves = Results.read(study).curves
    modules = curves[curves["phase"] == "incubate_module"]
    assert set(modules["experiment"]) == {"teacher_deit_large"}
    assert sorted(modules["module"].unique()) == [0, 1, 2, 3]
    assert curves[curves["phase"] == "pretrain_meta"]["module"].isna().all()
    assert curves[curves["epoch"] == 1]["val_top1"].isna().all()


def test_each_term_of_an_objective_has_a_column_and_a_panel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    terms = "experiment_changes.vmoe_base.distill.objective={terms: [{kind: labels}, {kind: dkd}, {kind: soft}]}"
    study = plan(tmp_path, "smoke", ["vmoe_base/m2mkd"], [terms])
    finish(study)
    for run in (run for run in study.runs.values() if run.phase == "distill_module"):
        path = Path(study.folder(run.id), "metrics.jsonl")
        lines = [json.loads(line) | {"dkd": 3.0} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        edit_record(study, run, lambda record, path=path: record["outputs"].update({path.name: sha256(path)}))
    results = Results.read(study)
    curves = results.curves
    assert list(curves.columns[-2:]) == ["val_top5", "dkd"]
    assert (
        set(curves[curves["phase"] == "distill_module"]["dkd"]) == {3.0} and curves[curves["phase"] == "train_student"]["dkd"].isna().all()
    )
    (figure,) = [one for one in curve_figures(results) if one.name.startswith("modules-")]
    assert "dkd" in {axes.get_ylabel() for axes in figure.figure.axes}


def test_shared_runs_serve_every_row_and_live_with_their_teacher(study):
    served, home = served_rows(study), display_rows(study)
    meta = first(study, "pretrain_meta")
    assert {(row.experiment, row.variant) for row in served[meta.id]} == {("teacher_deit_large", "teacher"), ("vmoe_base", "m2mkd")}
    assert home[meta.id] == ("teacher_deit_large", "teacher", "corrected")
    assert home[first(study, "distill_module").id] == ("vmoe_base", "m2mkd", "corrected")


def test_the_teacher_of_a_row_is_named_even_where_it_is_no_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", ["vmoe_base/m2mkd"])
    assert display_rows(study)[first(study, "pretrain_meta").id] == ("teacher_deit_large", "teacher", "corrected")


def test_stages_that_nobody_distils_from_belong_to_their_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", ["teacher_deit_large"])
    assert [row.experiment for row in served_rows(study)[first(study, "split_teacher").id]] == ["teacher_deit_large"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: record["config"]["recipe"].update(lr=0.5), r"config\.recipe\.lr is 0\.5 in this file, but 0\.00\d+ in the study"),
        (lambda record: record["config"].pop("init"), r"config\.init is null"),
        (lambda record: record.update(key="0" * 16), r"key is \"0{16}\""),
        (lambda record: record.update(id="evaluate/0"), r"id is \"evaluate/0\""),
        (lambda record: record["upstream"].update(modules=["distill_module/0"]), r"upstream\.modules is "),
        (lambda record: record.update(seed=7), r"seed is 7"),
        (lambda record: record.pop("outputs"), r"not a complete record of a run \(KeyError"),
        (lambda record: record.update(provenance={}), r"not a complete record of a run \(KeyError: 'seconds'"),
        (lambda record: record["provenance"].update(packages=None), r"not a complete record of a run \(TypeError"),
        (lambda record: record["provenance"].update(seconds="abc"), r"not a complete record of a run \(ValueError"),
    ],
)
def test_another_configuration_is_refused_by_name(study, change, says):
    run = first(study, "train_student")
    path = edit_record(study, run, change)
    with pytest.raises(InputError, match=says) as error:
        Results.read(study)
    assert str(path.relative_to(Path.cwd()) if path.is_absolute() else path) in str(error.value)
    assert f"remove {study.folder(run.id)} and run the workflow again" in str(error.value)


def test_a_missing_seed_is_an_error_that_names_the_run(study):
    last = [run for run in study.runs.values() if run.phase == "evaluate"][-1]
    path = Path(study.folder(last.id), "run.json")
    path.unlink()
    with pytest.raises(InputError, match=f"{last.id}/run.json: absent") as error:
        Results.read(study)
    assert "snakemake" in str(error.value)


@pytest.mark.parametrize("name", ["metrics.json", "metrics.jsonl"])
def test_an_output_that_was_changed_is_refused(study, name):
    path = Path(study.folder(first(study, "train_student").id), name)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InputError, match=f"{name}: sha256 is .* but the run recorded"):
        Results.read(study)
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: absent, though its record lists it"):
        Results.read(study)


def test_a_broken_record_is_refused(study):
    path = Path(study.folder(first(study, "evaluate").id), "run.json")
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match=r"run\.json: not valid JSON: .*; remove .* and run the workflow again"):
        Results.read(study)
