"""What planning writes for the workflow, and what it says of the last plan."""

import json
from pathlib import Path

import pytest

from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.study.state import NORMAL_MTIME
from m2mkd.workflow import plan_workflow
from tests.fabricated import edit_record, finish, first, plan


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Those of scale smoke, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    plan(tmp_path, "smoke")
    return lambda **changes: load.settings({"scale": "smoke", "container": "none", **changes})


def test_the_graph_names_a_plan_for_every_run(settings):
    said: list[str] = []
    graph = json.loads(plan_workflow(settings(), None, said.append).read_text())
    assert len(graph["runs"]) == 36
    assert said == ["m2mkd plan: scale smoke: 36 of 36 runs to compute, less than 0.1 GPU-hours on H200 SXM at 40 % of its peak"]
    assert graph["titles"].keys() == graph["runs"].keys() | graph["groups"].keys()
    for run_id in graph["runs"]:
        assert json.loads(Path(graph["root"], "plan", f"{run_id}.json").read_text())["id"] == run_id
    assert {phase for phase in graph["phases"] if not Path(graph["root"], "runs", phase).is_dir()} == set()


def test_planning_again_is_quiet_and_another_plan_says_what_differs(settings):
    said: list[str] = []
    first = plan_workflow(settings(), None, said.append)
    assert plan_workflow(settings(), None, said.append) == first
    assert [line for line in said if "to compute" not in line] == []
    plan_workflow(settings(overrides={"recipes": {"distill_module": {"lr": 0.5}}}), None, said.append)
    (line,) = [line for line in said if "to compute" not in line]
    assert "since the last plan" in line and "recipe.lr 0.002 -> 0.5" in line


def test_the_line_about_cost_counts_what_is_not_there_or_computed_again(settings, tmp_path):
    finish(study := plan(tmp_path, "smoke"))
    said: list[str] = []
    plan_workflow(settings(), None, said.append)
    assert said == []
    Path(study.folder(first(study, "distill_module").id), "run.json").unlink()
    plan_workflow(settings(), None, said.append)
    (line,) = said
    assert line.startswith("m2mkd plan: scale smoke: 1 of 36 runs to compute, ")


def test_an_address_with_a_password_is_in_no_plan(settings, tmp_path, monkeypatch):
    for name in ("open", "shown"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # so that it is put back afterwards
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        address = "http://server:5000" if name == "open" else "postgresql://user:secret@server/mlflow"
        graph = json.loads(plan_workflow(settings(tracking_uri=address), None, print).read_text())
        assert graph["tracking"] == {"MLFLOW_TRACKING_URI": address}
        planned = json.loads(Path(graph["root"], "plan", f"{next(iter(graph['runs']))}.json").read_text())
        assert planned["tracking_uri"] == (address if name == "open" else None)


def test_with_an_object_storage_results_lie_where_it_sends_them_from(settings, tmp_path):
    plan_workflow(settings(), None, print, storage=tmp_path / "copies")
    results = tmp_path / "results" / "smoke"
    assert results.resolve() == (tmp_path / "copies" / "results" / "smoke").resolve()
    assert (results / "plan").resolve() == tmp_path / "data" / "plan" / "results" / "smoke"
    assert (results / "work").resolve() == tmp_path / "data" / "work" / "results" / "smoke"
    plan_workflow(settings(), None, print, storage=tmp_path / "copies")
    with pytest.raises(InputError, match="is there already, but outputs are to be stored elsewhere"):
        plan_workflow(settings(), None, print, storage=tmp_path / "others")


def test_strict_about_code_plans_what_other_code_computed_again(settings, tmp_path):
    study = plan(tmp_path, "smoke")
    finish(study)
    run, other, unknown = (first(study, phase) for phase in ("distill_module", "train_student", "pretrain_meta"))
    edit_record(study, run, lambda record: record["code"].update({"m2mkd.models.vit": "0" * 16}))
    edit_record(study, other, lambda record: record["inputs"].update({other.parents[0]: "0" * 16}) if other.parents else None)
    edit_record(study, unknown, lambda record: [record.pop("code"), record.pop("inputs")])

    def planned(**changes) -> dict:
        return json.loads(plan_workflow(settings(**changes), None, said.append).read_text())

    said: list[str] = []
    named = planned()
    assert [name for one in named["runs"].values() for name in one["inputs"] if "/plan/" in name] == [] and len(said) == 1
    outdated = [run.id] + [other.id] * bool(other.parents)
    strict = planned(code="strict")
    marks = {run_id: name for run_id, one in strict["runs"].items() for name in one["inputs"] if "/plan/" in name}
    assert sorted(marks) == sorted(outdated)
    assert "finished runs are computed again" in said[1]
    for run_id, mark in marks.items():
        assert Path(mark).stat().st_mtime > NORMAL_MTIME >= Path(study.folder(run_id), "run.json").stat().st_mtime
        assert json.loads(Path(strict["root"], "plan", f"{run_id}.json").read_text())["code"] == "strict"
    assert {**strict, "runs": None} == {**named, "runs": None}


def test_runs_that_are_computed_again_share_jobs(settings, tmp_path):
    study = plan(tmp_path, "smoke")
    finish(study)
    modules = [run for run in study.runs.values() if run.phase == "distill_module"]
    for run in modules:
        edit_record(study, run, lambda record: record["code"].update({"m2mkd.models.vit": "0" * 16}))
    changes = {"overrides": {"modules_per_job": 4}}
    assert json.loads(plan_workflow(settings(**changes), None, print).read_text())["groups"] == {}
    groups = json.loads(plan_workflow(settings(**changes, code="strict"), None, print).read_text())["groups"]
    assert {run_id for group in groups.values() for run_id in group} == {run.id for run in modules}


def test_of_one_phase_the_job_with_the_most_to_compute_goes_first(settings):
    recipes = {"vmoe_finetune": {"epochs": 4}, "vmoe_end_to_end_100": {"epochs": 8}}
    changes = {"seeds": 2, "seeds_per_job": 2, "recipes": recipes}
    planned = settings(overrides=changes, experiments=["vmoe_base/end_to_end", "vmoe_base/m2mkd"])
    graph = json.loads(plan_workflow(planned, None, print).read_text())
    lengths = {graph["titles"][first]: length for first, length in graph["lengths"].items()}
    short, long = (lengths[f"train vmoe_base/{variant}, seeds 0 to 1"] for variant in ("m2mkd", "end_to_end"))
    # Above 99 it would overtake another phase.
    assert 0 < short < max(lengths.values()) == 99
    assert long == pytest.approx(2 * short, abs=2)
