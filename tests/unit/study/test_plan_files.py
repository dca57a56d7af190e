"""The plan as files: what a job knows of its run, whatever has become of the configuration since."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.study.differences import plan_differences
from m2mkd.study.files import plan_folder, planned_runs, read_planned, read_study, study_file, write_plan
from m2mkd.study.keys import sealed
from m2mkd.study.lookup import find_runs
from m2mkd.study.plan import build_study
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from tests.conftest import ROOT
from tests.tiny import of_phase, smoke

SETTINGS = {"scale": "smoke"}


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    """A project of its own, whose configuration may be changed."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def study():
    planned = smoke()
    write_plan(planned)
    return planned


def file_of(study: Study, run: Run) -> Path:
    return planned_runs(study)[run.id].file


def edit(path: Path, change) -> None:
    """Change a plan, and make its own digest right again."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed(content)))


# --- what is in them --------------------------------------------------------------------------------------------------


def test_a_study_is_read_as_it_was_written():
    overrides = {"seeds": 2, "profiles": ["released", "corrected"], "recipes": {"distill_module": {"epochs": 3}}}
    settings = load.settings(SETTINGS | {"experiments": ["vmoe_base", "fewshot_cifar100_vmoe"], "overrides": overrides})
    written = build_study(settings)
    write_plan(written, "http://tracking.example:5000")
    read = read_study("smoke", written.key)
    assert read == written and read.key == written.key
    assert list(read.runs) == list(written.runs) and all(read.runs[name].users == run.users for name, run in written.runs.items())
    assert (read.rows, read.experiments, read.selected) == (written.rows, written.experiments, written.selected)
    assert read.overrides == {"seeds": 2, "profiles": ["released", "corrected"], "recipes": {"distill_module": {"epochs": 3}}}


def test_ablations_are_read_too():
    written = build_study(load.settings({"scale": "small"}), ablations=True)
    write_plan(written)
    assert read_study("small", written.key) == written and written.ablations


def test_a_job_reads_all_that_it_needs(study):
    write_plan(study, "sqlite:///a.db")
    for planned in planned_runs(study, "sqlite:///a.db").values():
        assert read_planned(planned.file) == planned
        assert planned.run.id == f"{planned.file.parent.name}/{planned.file.stem}"


def test_planning_again_writes_no_file_again(study):
    before = {path: path.stat().st_mtime_ns for path in plan_folder("smoke").rglob("*.json")}
    assert len(before) == len(study.runs) + 1
    write_plan(smoke())
    assert {path: path.stat().st_mtime_ns for path in plan_folder("smoke").rglob("*.json")} == before


def test_a_password_of_the_tracking_server_is_in_no_plan(monkeypatch):
    from m2mkd.workflow import plan_workflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = load.settings(SETTINGS | {"tracking_uri": "http://user:secret@tracking.example:5000"})
    plan_workflow(settings, None, print)
    plans = list(plan_folder("smoke").glob("*/*.json"))
    assert plans and not any("secret" in path.read_text() for path in plans)


# --- what is wrong with them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["config"]["recipe"].update(epochs=99),
        lambda content: content["config"].pop("threads"),
        lambda content: content["upstream"].update(meta=["pretrain_meta/0123456789abcdef"]),
    ],
)
def test_an_edited_plan_is_refused(study, change):
    path = file_of(study, of_phase(study, "distill_module")[0])
    edit(path, change)
    with pytest.raises(InputError, match=rf"{path}: its content does not match the digest in its name; run the workflow again") as refused:
        read_planned(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "absent"),
        (lambda path: path.write_text("{"), "not valid JSON"),
        (lambda path: path.write_text("[]"), "holds a list, but an object is needed"),
        (lambda path: path.write_text("{}"), "its content does not match its digest"),
        (lambda path: path.write_text(path.read_text().replace('"named"', '"strict"')), "its content does not match its digest"),
        (lambda path: edit(path, lambda content: content.clear()), r"not a complete plan of a run \(KeyError\)"),
        (lambda path: edit(path, lambda content: content.update(format=99)), "planned for format 99 of evaluate, but this is 3"),
        (lambda path: edit(path, lambda content: content.update(row=None)), "not a complete plan of a run"),
        (lambda path: edit(path, lambda content: content.pop("experiments")), "not a complete plan of a run"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(study, damage, message):
    path = file_of(study, of_phase(study, "evaluate")[0])
    damage(path)
    with pytest.raises(InputError, match=f"{path}: {message}.*; run the workflow again, which makes a new plan") as refused:
        read_planned(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", [lambda content: content["rows"].pop(), lambda content: content["runs"].pop(), lambda c: c.pop("scale")])
def test_an_edited_plan_of_a_study_is_refused_in_one_line(study, damage):
    path = study_file("smoke", study.key)
    edit(path, damage)
    with pytest.raises(InputError, match=rf"^{path}: .*; run the workflow again") as refused:
        read_study("smoke", study.key)
    assert "\n" not in str(refused.value)


def test_a_study_without_the_plan_of_one_of_its_runs_is_refused(study):
    file_of(study, of_phase(study, "evaluate")[0]).unlink()
    with pytest.raises(InputError, match="absent; run the workflow again"):
        read_study("smoke", study.key)


# --- finding runs -----------------------------------------------------------------------------------------------------


def test_a_job_reads_its_plan_and_no_configuration(study):
    settings = load.settings(SETTINGS)
    shutil.rmtree("config")
    run = of_phase(study, "distill_module")[0]
    assert find_runs([run.id], settings) == [planned_runs(study)[run.id]]


def test_the_command_works_from_the_plan_alone(study):
    """Without config/, in a process of its own; what it builds on is not there, which is how far it comes."""
    run = of_phase(study, "split_teacher")[0]
    shutil.rmtree("config")
    command = [sys.executable, "-m", "m2mkd", "run", run.id, "--scale", "smoke", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    teacher = study.folder(run.upstream["teacher"][0])
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"m2mkd: {teacher}/model.safetensors: cannot be read with its record") and done.stderr.count("\n") == 1


def test_an_edited_recipe_changes_nothing_in_what_was_planned(study):
    run = of_phase(study, "pretrain_meta")[0]
    path = Path("config/scales/smoke.yaml")
    path.write_text(path.read_text().replace("pretrain_meta: {epochs: 2,", "pretrain_meta: {epochs: 7,"))
    assert smoke().key != study.key
    (found,) = find_runs([run.id], load.settings(SETTINGS))
    assert found.run == run and found.run.config.recipe.epochs == 2


def test_the_beginning_of_a_key_is_enough_and_one_that_fits_several_is_refused(study):
    run = of_phase(study, "pretrain_meta")[0]
    settings = load.settings(SETTINGS)
    for start in (run.id[:-8], "pretrain_meta/", "pretrain_meta"):
        assert [found.run for found in find_runs([start], settings)] == [run]
    with pytest.raises(InputError, match=r"distill_module/: fits 8 planned runs of scale smoke; give more of its key") as refused:
        find_runs(["distill_module/"], settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["distill_module/ffffffffffffffff", "nonsense/1", "../../x", "distill_module/*", ""])
def test_what_is_no_run_is_one_line(study, name):
    with pytest.raises(InputError, match=r"is not a run of this study|fits \d+ (planned )?runs") as refused:
        find_runs([name], load.settings(SETTINGS))
    assert "\n" not in str(refused.value)


def test_without_a_plan_it_plans():
    assert not plan_folder("smoke").exists()
    (found,) = find_runs(["pretrain_meta/"], load.settings(SETTINGS))
    assert found.file.is_file() and read_planned(found.file) == found


# --- what a new plan changes ------------------------------------------------------------------------------------------


def test_a_changed_recipe_is_named_with_both_values(study):
    after = smoke(recipes={"vmoe_finetune": {"epochs": 11}})
    news = plan_differences(study, after)
    new = set(after.runs) - set(study.runs)
    assert news.startswith(f"since the last plan {len(new)} of {len(after.runs)} runs are new, and {len(new)} are no longer needed")
    assert "recipe.epochs 3 -> 11" in news and "\n" not in news


def test_the_same_plan_differs_in_nothing(study):
    assert plan_differences(study, smoke()) == ""


def test_more_seeds_are_new_runs_and_no_changed_field(study):
    after = smoke(seeds=2)
    news = plan_differences(study, after)
    assert news == f"since the last plan {len(after.runs) - len(study.runs)} of {len(after.runs)} runs are new, and 0 are no longer needed"


def test_many_changes_are_cut(study):
    changes = {"lr": 0.123, "warmup_epochs": 0, "weight_decay": 0.5, "clip_norm": 9.0, "drop_path": 0.4, "batch_size": 30, "eval_every": 2}
    news = plan_differences(study, smoke(recipes={"pretrain_meta": changes, "incubate_module": changes}))
    assert " more" in news and news.count("->") == 6


def test_the_workflow_says_what_differs_once(study):
    from m2mkd.workflow import plan_workflow

    said: list[str] = []

    def differences() -> list[str]:
        return [line for line in said if "since the last plan" in line]

    plan_workflow(load.settings(SETTINGS), None, said.append)
    assert differences() == []
    changed = load.settings(SETTINGS | {"overrides": {"recipes": {"pretrain_meta": {"epochs": 4}}}})
    plan_workflow(changed, None, said.append)
    plan_workflow(changed, None, said.append)
    assert len(differences()) == 1 and "recipe.epochs 2 -> 4" in differences()[0]
