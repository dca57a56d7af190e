"""What is shown of a study is what its receipts say; else planning has it made again."""

import json
import shutil
from pathlib import Path

import pytest

from m2mkd.config import load
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.listing import listed
from m2mkd.study.receipt import disagreements, report_receipt
from m2mkd.study.record import finished_runs
from m2mkd.workflow import plan_workflow
from tests.fabricated import edit_record, finish, first, plan, publish

EXPERIMENTS = ["vmoe_base/end_to_end"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study with tables and report, which was planned."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "smoke", EXPERIMENTS)
        finish(study)
        compile_tables(Results.read(study))
        write_report(Results.read(study))
        plan_again()
    return root, study


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """The same in a folder of its own."""
    monkeypatch.chdir(shutil.copytree(finished[0], tmp_path / "copy"))
    return finished[1]


def wrong(study) -> list[str]:
    return list(disagreements(study, finished_runs(study)))


def plan_again() -> list[str]:
    """What planning says."""
    said: list[str] = []
    plan_workflow(load.settings({"scale": "smoke", "experiments": EXPERIMENTS, "container": "none"}), None, said.append)
    return said


def test_what_was_made_agrees_and_is_planned_as_done(study):
    assert wrong(study) == [] and plan_again() == []
    assert Path(study.receipt).is_file() and report_receipt(study).is_file()
    shown = json.loads(Path(study.receipt).read_text())["shown"].keys() | json.loads(report_receipt(study).read_text())["shown"].keys()
    there = {path.relative_to(study.root).as_posix() for path in Path(study.root).glob("*") if path.is_file()}
    there |= {path.relative_to(study.root).as_posix() for path in Path(study.root, "tables").iterdir()}
    receipts = {Path(study.receipt).relative_to(study.root).as_posix(), report_receipt(study).relative_to(study.root).as_posix()}
    assert shown == there - receipts and {"metrics.json", "report.html", "overview.png"} <= shown


@pytest.mark.parametrize(
    "name", ["tables/results.csv", "tables/claims.md", "tables/runs.parquet", "metrics.json", "report.html", "overview.png"]
)
def test_an_edited_file_is_named_and_all_is_made_again(study, name):
    path = Path(study.root, name)
    path.write_bytes(path.read_bytes().replace(b"9", b"8", 1) + b" ")
    assert wrong(study) == [f"{path}: has been changed"]
    assert plan_again() == [f"m2mkd: {path}: has been changed; tables and report are made again"]
    assert not Path(study.receipt).exists() and not report_receipt(study).exists()  # by which the workflow makes them


def test_a_file_that_is_gone_is_noticed(study):
    Path(study.root, "tables", "ood.tex").unlink()
    assert wrong(study) == ["results/smoke/tables/ood.tex: is missing"]


@pytest.mark.parametrize("field", ["runs", "shown", "study", "format", "digest"])
def test_a_receipt_that_was_changed_is_none(study, field):
    path = Path(study.receipt)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: {}}))
    assert len(wrong(study)) == 1 and "is damaged, or of an earlier version" in wrong(study)[0]


def test_a_report_without_its_receipt_or_of_other_tables_is_made_again(study):
    receipt = report_receipt(study)
    text = receipt.read_text()
    receipt.unlink()
    assert wrong(study) == [f"{study.root}/report.html: has no receipt"]
    receipt.write_text(text)
    assert wrong(study) == []
    publish(study, first(study, "evaluate"), 0.5)
    compile_tables(Results.read(study))
    receipt.write_text(text)
    assert wrong(study) == [f"{study.root}/report.html: is of other tables"]


def test_tables_of_a_run_that_was_computed_again_with_other_numbers_are_made_again(study):
    run = first(study, "evaluate")
    publish(study, run, 0.90)  # the same numbers at another time
    assert wrong(study) == []
    publish(study, run, 0.5)
    assert wrong(study) == [f"{run.id}: differs from the run that the tables show"]


def test_tables_name_runs_of_other_code_and_are_made_again_when_these_are_others(study):
    run = first(study, "train_student")
    edit_record(study, run, lambda record: record["code"].update({"m2mkd.models.vit": "0" * 16}))
    assert wrong(study) == [f"{study.receipt}: the runs computed by other code differ from those that it lists"]
    (one,) = [one for one in listed(study) if run.id.endswith(one["key"])]
    assert (one["code"], one["changed_modules"]) == ("other: m2mkd.models.vit", ["m2mkd.models.vit"])
    (named, made) = plan_again()
    assert "other code computed 1 finished runs, which stay" in named and f"{run.id}: other: m2mkd.models.vit" in named
    assert "made again" in made
    compile_tables(Results.read(study))
    write_report(Results.read(study))
    assert wrong(study) == [] and plan_again() == []
    assert Results.read(study).outdated.keys() == {run.id}
    page = Path(study.root, "report.html").read_text()
    assert "Other code computed 1 of" in page and f"<code>{run.id}</code>: other: m2mkd.models.vit" in page


def test_a_run_that_does_not_say_which_code_is_named_but_neither_flagged_nor_redone(study):
    edit_record(study, first(study, "train_student"), lambda record: [record.pop("code"), record.pop("inputs")])
    assert wrong(study) == [] and plan_again() == []
    write_report(Results.read(study))
    assert "1 of 2 runs do not record which code computed them" in Path(study.root, "report.html").read_text()
