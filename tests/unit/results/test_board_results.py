"""What is judged is read once, missed and refused by name, and shown with its runs, digests and costs."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.config.claims import load_claims
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.planning.cost import cost_of
from m2mkd.results.judge.results import Results
from m2mkd.results.read import collect
from m2mkd.results.read.records import read_record
from m2mkd.results.read.runs_table import COLUMNS, KEY, SCHEMA_VERSION, VOLATILE
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.claims_table import explanation
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.phases import Evaluate, TrainStudent
from m2mkd.study.plan import build_study
from tests.fabricated import ROOT, edit_record, plan
from tests.unit.results.boards import STUDENTS, board, claim, fabricate, one_of


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("phase", [TrainStudent, Evaluate])
def test_a_deleted_seed(tmp_path, phase):
    study = fabricate(tmp_path)
    compile_tables(Results.read(study))
    gone = study.folder(one_of(study, phase, seed=1).id)
    shutil.rmtree(gone)
    with pytest.raises(InputError, match=f"{gone}/run.json: absent"):
        compile_tables(Results.read(study))
    compile_tables(Results.read(study, partial=True))
    metrics = json.loads(Path("results/small/tables/claims.json").read_text())
    assert (metrics["small_vmoe_iid"]["verdict"], metrics["small_vmoe_iid"]["seeds"]) == ("inconclusive", 5)
    assert metrics["vmoe_gain_100"]["verdict"] == "smoke-fail"
    assert metrics["nac_tiny_iid_gain"]["verdict"] == "not run"
    found = board(study)
    for name in ("small_vmoe_iid", "vmoe_gain_100"):
        assert f"Seed 1 of vmoe_base/m2mkd is missing: {gone}/run.json: absent" in found[name].verdict.why
    assert found["small_vmoe_iid"].verdict.needs == "Run the workflow again to complete it."
    # Tables are of the five seeds that are left, and the workflow will make them anew.
    assert "| m2mkd      | corrected |       5 |" in Path("results/small/tables/results.md").read_text()
    assert not list(Path("results/small/tables").glob("study-*.json"))


def test_nothing_at_all(tmp_path):
    study = plan(tmp_path, "small", STUDENTS)
    found = board(study)
    assert found["small_vmoe_iid"].verdict.word == "not run"
    assert "None of its accuracies is there." in found["small_vmoe_iid"].verdict.why
    assert found["vmoe_gain_100"].verdict.word == "smoke-fail"
    compile_tables(Results.read(study, partial=True))
    write_report(Results.read(study, partial=True))
    page = Path("results/small/report.html").read_text()
    assert "This report is partial." in page
    assert f"{study.folder(next(iter(study.runs)))}/run.json: absent" in page


def test_a_changed_output_fails_the_smoke(tmp_path):
    study = fabricate(tmp_path)
    path = Path(study.folder(one_of(study, Evaluate, seed=2).id), "metrics.json")
    path.write_text(path.read_text().replace("0.92", "0.99"))
    found = board(study)
    assert found["vmoe_gain_100"].verdict.word == "smoke-fail" and "sha256 is" in found["vmoe_gain_100"].verdict.why
    assert found["small_vmoe_iid"].verdict.word == "inconclusive"
    assert found["small_vmoe_iid"].verdict.needs.startswith(f"Remove the folder of {path} and run the workflow again, which")


def test_cost_of_what_is_not_run_is_that_of_the_plan(tmp_path):
    finding = board(plan(tmp_path, "smoke", STUDENTS))["kd_term_released"]
    names = ["vmoe_base/m2mkd", "vmoe_base_labels_only/modules"]
    seeds = {"profiles": ["released"], "seeds": 6}
    study = build_study(load.settings({"scale": "paper", "experiments": names, "overrides": seeds}))
    # How well modules fit the meta model is measured for its own sake; the claim does not need it.
    expected = sum(cost.gpu_hours for run_id, cost in cost_of(study).items() if not run_id.startswith("measure_hybrid/"))
    assert finding.cost == pytest.approx(expected)
    assert f"Scale paper with 6 seeds: about {expected:,.1f} GPU-hours" in finding.verdict.needs


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("top1", value) for value in ("NaN", "1.5", "-0.1", "null", '"0.9"', "Infinity")), ("count", "359.5"), ("count", "0")],
)
def test_a_number_that_is_none_is_refused_by_name_and_decides_nothing(tmp_path, name, value):
    study = fabricate(tmp_path)
    run = one_of(study, Evaluate, seed=1)
    path = Path(study.folder(run.id), "metrics.json")
    path.write_text(re.sub(rf'"{name}": [\d.]+', f'"{name}": {value}', path.read_text(), count=1))
    edit_record(study, run, lambda record: record["outputs"].update({"metrics.json": sha256(path)}))
    with pytest.raises(InputError, match=rf"metrics\.json: {name} is .*; remove"):
        compile_tables(Results.read(study))
    found = board(study)
    assert found["small_vmoe_iid"].verdict.word == "inconclusive" and found["vmoe_gain_100"].verdict.word == "smoke-fail"
    assert f"metrics.json: {name} is" in found["small_vmoe_iid"].verdict.why


def confused(metrics):
    """A table of confusions that fits the accuracy."""
    right = round(metrics["top1"] * metrics["count"])
    return {"confusion": {"classes": ["a", "b"], "images": [[0, 0, right], [1, 0, metrics["count"] - right]]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metrics: metrics.pop("top1"), "no measurement 'top1'"),
        (lambda metrics: metrics.update(ood=[1]), r"measurements of another form \(.*\)"),
        (lambda metrics: metrics.update(confused(metrics), per_class=[1.0, 0.0]), r"measurements of another form \(.*\)"),
    ],
)
def test_metrics_of_another_form_are_refused_in_these_words(tmp_path, change, message):
    study = fabricate(tmp_path)
    run = one_of(study, Evaluate, seed=1)
    path = Path(study.folder(run.id), "metrics.json")
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))
    edit_record(study, run, lambda record: record["outputs"].update({"metrics.json": sha256(path)}))
    with pytest.raises(InputError, match=rf"metrics\.json: {message}; remove"):
        compile_tables(Results.read(study))


def test_a_claim_of_what_there_is_not_is_refused_by_name(tmp_path):
    study = plan(tmp_path, "small", STUDENTS)
    with pytest.raises(InputError, match=r"config/claims\.tsv: tiny_vmoe_iid: .*vmoe_bass"):
        board(study, [claim("tiny_vmoe_iid", id="right"), claim("tiny_vmoe_iid", population="vmoe_bass")])


def test_the_explanation_names_runs_digests_and_commands(tmp_path):
    study = fabricate(tmp_path)
    finding = board(study)["small_vmoe_iid"]
    text = explanation(study, finding)
    assert "snakemake --cores all vmoe_base --config scale=small" in text
    for run_id in (run_id for row in study.rows for run_id in row.measured):
        assert f"results/small/runs/{run_id}  record sha256 " in text
    assert set(finding.runs) == {run.id for run in study.runs.values() if run.phase != "measure_hybrid"}


def test_a_study_without_runs_is_refused_in_one_line(tmp_path):
    plan(tmp_path, "small", STUDENTS)
    for command in (["compile"], ["compile", "--partial"], ["report"], ["track", "sync"], ["crate"]):
        with pytest.raises(InputError, match=r"^scale small: its study has no run; name experiments in config/scales/small\.yaml$"):
            CliRunner().invoke(app, [*command, "--scale", "small", "--set", "experiments=[]"], catch_exceptions=False)


def test_results_are_read_and_judged_once(tmp_path, monkeypatch):
    read = Counter()

    def counted(study, run):
        read[run.id] += 1
        return read_record(study, run)

    study = fabricate(tmp_path)
    monkeypatch.setattr(collect, "read_record", counted)
    results = Results.read(study)
    compile_tables(results)
    write_report(results)
    assert len(results.every_record) == len(study.runs) and read == Counter(study.runs.keys())
    assert results.findings is results.findings


def test_the_command(tmp_path):
    study = fabricate(tmp_path, seeds=3)
    arguments = ["claims", "--scale", "small", *(word for name in STUDENTS for word in ("--experiment", name))]
    shown = CliRunner().invoke(app, [*arguments, "small_vmoe_iid"])
    assert shown.exit_code == 0 and shown.stdout.startswith("small_vmoe_iid: inconclusive")
    listed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert list(listed) == [one.id for one in load_claims()] and listed["small_vmoe_iid"]["seeds"] == 3
    summary = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert summary[0].startswith("Scale small: ") and summary[0].endswith(" claims of other scales") and len(summary) < 40
    (line,) = [line for line in summary if line.startswith(" small_vmoe_iid ")]
    assert "V-MoE: m2mKD - end to end, IID" in line and line.rstrip().endswith("inconclusive")
    assert "What would decide it: 3 more seeds of each arm." in shown.stdout
    assert study.rows
    with pytest.raises(InputError, match="small_vmo: not a claim"):
        CliRunner().invoke(app, [*arguments, "small_vmo"], catch_exceptions=False)


def test_the_table_of_runs_documents_itself(tmp_path):
    compile_tables(Results.read(fabricate(tmp_path)))
    schema = pq.read_schema("results/small/tables/runs.parquet")
    assert schema.names == [name for name in COLUMNS if name not in VOLATILE]
    assert schema.metadata[b"m2mkd.schema_version"].decode() == str(SCHEMA_VERSION)
    assert all(schema.field(name).metadata[b"about"].decode() == COLUMNS[name][1] for name in schema.names)
    page = (ROOT / "docs/results.md").read_text()
    assert f"schema version {SCHEMA_VERSION}" in page
    assert [line for line in page.splitlines() if re.match(r"\| `\w+` \| \w+ \| ", line)] == [
        f"| `{name}` | {COLUMNS[name][0]} | {COLUMNS[name][1]} |" for name in schema.names
    ]
    lines = pq.read_table("results/small/tables/runs.parquet").to_pandas()
    assert not lines.duplicated(subset=list(KEY)).any() and lines["hardware"].notna().all()
