"""The verdict board on fabricated runs: what is missing, wrong, at chance, at another scale, or an outlier."""

import json
import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.config.claims import Claim, load_claims
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.planning.cost import cost_of
from m2mkd.results.judge.board import Finding, verdict_board
from m2mkd.results.judge.changes import changed_science
from m2mkd.results.judge.results import Results
from m2mkd.results.read import collect
from m2mkd.results.read.records import read_record
from m2mkd.results.read.runs_table import COLUMNS, KEY, SCHEMA_VERSION, VOLATILE
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.claims_table import explanation
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.phases import Evaluate, TrainStudent
from m2mkd.study.plan import build_study
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from m2mkd.training import job
from tests.fabricated import ROOT, edit_record, finish, plan

STUDENTS = ("vmoe_base/end_to_end", "vmoe_base/m2mkd")
GAINS = (0.020, 0.021, 0.022, 0.019, 0.018, 0.023)
"""Of m2mKD over from scratch, by seed."""


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "provenance", cache(job.provenance))


def gaining(study: Study, gains=GAINS):
    """Accuracies in which m2mKD gains so much over 90 %."""
    treated = {run_id for row in study.rows if row.variant == "m2mkd" for run_id in row.measured}
    return lambda run, seed: 0.9 + (gains[seed] if run.id in treated else 0.0)


def fabricate(root: Path, scale: str = "small", gains=GAINS, **changes) -> Study:
    study = plan(root, scale, STUDENTS, **changes)
    finish(study, gaining(study, gains))
    return study


def board(study: Study, claims=None) -> dict[str, Finding]:
    return {finding.claim.id: finding for finding in verdict_board(Results.read(study, partial=True), claims)}


def claim(name: str, **changes) -> Claim:
    original = next(one for one in load_claims() if one.id == name)
    return Claim.model_validate(original.model_dump() | changes)


def one_of(study: Study, phase: type, seed: int = 0, variant: str = "m2mkd") -> Run:
    """The run that trained a row of the first profile, or that measured it."""
    (row,) = [row for row in study.rows if row.variant == variant and row.profile == study.scale.profiles[0]]
    of_row = [study.runs[run_id] for run_id in (*row.trained, *row.measured)]
    (found,) = [run for run in of_row if isinstance(run.config, phase) and run.seed == seed]
    return found


def test_a_whole_study(tmp_path):
    found = board(fabricate(tmp_path))
    suite, paper = found["small_vmoe_iid"], found["vmoe_gain_100"]
    assert suite.verdict.word == "reproduced"
    assert suite.verdict.interval.estimate == pytest.approx(2.1)
    assert [seed.accuracy for seed in suite.comparisons[0][0].seeds] == pytest.approx([0.92, 0.921, 0.922])
    assert suite.exact_test == "cannot reach 5 % with 3 seeds (smallest p 0.25); 6 can"
    assert paper.verdict.word == "smoke-pass"
    assert "judges nothing about the paper" in paper.verdict.why and paper.verdict.interval is None
    # Of a study that has no NAC, and of other scales.
    assert found["small_nac_iid"].verdict.word == "not run"
    assert "no nac_tiny_imagenet_scale_free/m2mkd" in found["small_nac_iid"].verdict.why
    assert found["vmoe_gain_300"].verdict.word == "not run"
    assert "Judged at scale tiny-imagenet alone; this is scale small." in found["tiny_vmoe_iid"].verdict.why
    words = {finding.verdict.word for finding in found.values() if finding.claim.subject == "paper"}
    assert words == {"smoke-pass", "not run"}


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
    assert metrics["small_vmoe_iid"] == {"verdict": "inconclusive", "seeds": 2}
    assert metrics["vmoe_gain_100"]["verdict"] == "smoke-fail"
    assert metrics["nac_tiny_iid_gain"]["verdict"] == "not run"
    found = board(study)
    for name in ("small_vmoe_iid", "vmoe_gain_100"):
        assert f"Seed 1 of vmoe_base/m2mkd is missing: {gone}/run.json: absent" in found[name].verdict.why
    assert found["small_vmoe_iid"].verdict.why.endswith("Run the workflow again to complete it.")
    # Tables are of the two seeds that are left, and the workflow will make them anew.
    assert "| m2mkd      | corrected |       2 |" in Path("results/small/tables/results.md").read_text()
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
    assert f" Remove the folder of {path} and run the workflow again, which" in found["small_vmoe_iid"].verdict.why


def test_an_outlier_changes_the_verdict(tmp_path):
    gains = (0.020, 0.021, 0.022, -0.10)
    study = fabricate(tmp_path, gains=gains, seeds=3)
    assert board(study)["small_vmoe_iid"].verdict.word == "reproduced"
    study = fabricate(tmp_path, gains=gains, seeds=4)
    verdict = board(study)["small_vmoe_iid"].verdict
    # mean -0.925, std 6.05, half width 3.1824 * 6.05 / 2
    assert verdict.word == "inconclusive"
    assert verdict.why.startswith("-0.92 points [-10.55, +8.70] holds 0. 4 seeds find")


@pytest.mark.parametrize(("correct", "word"), [(48, "smoke-pass"), (47, "smoke-fail")])
def test_chance_is_excluded_by_the_exact_binomial_interval(tmp_path, correct, word):
    # Of 359 images in 10 classes: 48 correct have the lower bound 10.03 %, 47 have 9.78 %.
    study = plan(tmp_path, "small", STUDENTS)
    finish(study, lambda run, _: correct / 359)
    verdict = board(study)["vmoe_gain_100"].verdict
    assert verdict.word == word, verdict.why
    assert ("not above chance (10.00 %)" in verdict.why) == (word == "smoke-fail")


def test_chance_outside_the_distribution_counts_the_common_classes(tmp_path):
    study = plan(tmp_path, "small", STUDENTS)
    finish(study, lambda run, _: 0.36)  # OOD 18 % of 860 images in 6 classes, whose chance is 16.7 %
    found = board(study, [claim("vmoe_gain_100", metric="ood_top1"), claim("vmoe_gain_100", id="iid")])
    assert found["iid"].verdict.word == "smoke-pass"
    assert "not above chance (16.67 %): 18.00 %" in found["vmoe_gain_100"].verdict.why


def test_at_the_papers_scale_claims_of_the_paper_are_judged(tmp_path):
    study = fabricate(tmp_path, "paper", gains=(0.050, 0.045, 0.055))
    finding = board(study)["vmoe_gain_100"]
    assert finding.verdict.word == "reproduced", finding.verdict.why
    assert {arm.profile for pair in finding.comparisons for arm in pair} == {"released"}
    assert finding.cost is None


def test_a_changed_scale_judges_nothing(tmp_path):
    change = ["recipes.vmoe_finetune.epochs=3"]
    found = board(fabricate(tmp_path, "paper", gains=(0.05, 0.045, 0.055), overrides=change))["vmoe_gain_100"]
    assert found.verdict.word == "smoke-pass"
    assert "At scale paper with recipes.vmoe_finetune.epochs=3 this judges nothing about the paper." in found.verdict.why
    assert "not excluded" not in found.verdict.why and found.verdict.interval is None
    found = board(plan(tmp_path, "small", STUDENTS, change))["small_vmoe_iid"]
    assert found.verdict.word == "not run" and "this study changes recipes.vmoe_finetune.epochs=3" in found.verdict.why


def test_cost_of_what_is_not_run_is_that_of_the_plan(tmp_path):
    finding = board(plan(tmp_path, "smoke", STUDENTS))["kd_term_released"]
    names = ["vmoe_base/m2mkd", "vmoe_base_labels_only/modules"]
    seeds = {"profiles": ["released"], "seeds": 3}
    study = build_study(load.settings({"scale": "paper", "experiments": names, "overrides": seeds}))
    # How well modules fit the meta model is measured for its own sake; the claim does not need it.
    expected = sum(cost.gpu_hours for run_id, cost in cost_of(study).items() if not run_id.startswith("measure_hybrid/"))
    assert finding.cost == pytest.approx(expected)
    assert f"about {expected:,.1f} GPU-hours" in finding.verdict.why


MORE = "experiment_changes.vmoe_base.variants.m2mkd.seeds"


def test_arms_of_different_seeds_are_paired_by_those_that_both_have(tmp_path):
    gains = (0.020, 0.021, 0.022, -0.5, -0.5)
    study = fabricate(tmp_path, gains=gains, overrides=[f"{MORE}=5"])
    finding = board(study)["small_vmoe_iid"]
    assert [len(arm.seeds) for arm in finding.comparisons[0]] == [5, 3] and finding.seeds == 3
    assert finding.verdict.word == "reproduced" and finding.verdict.interval.estimate == pytest.approx(2.1)
    assert finding.verdict.why.endswith(" 2 seeds that not all arms have are left out.")
    # A seed that the other arm lacks is not missed, but one that both have is.
    treated = {seed.seed: seed.run for seed in finding.comparisons[0][0].seeds}
    shutil.rmtree(study.folder(treated[4]))
    assert board(study)["small_vmoe_iid"].verdict.why == finding.verdict.why
    shutil.rmtree(study.folder(treated[2]))
    assert "Seed 2 of vmoe_base/m2mkd is missing" in board(study)["small_vmoe_iid"].verdict.why


def test_seeds_alone_change_no_science(tmp_path):
    study = plan(tmp_path, "small", ["vmoe_base/end_to_end"], ["experiment_changes.vmoe_base.seeds=4", f"{MORE}=5"])
    assert changed_science(study) == []
    study.overrides["experiment_changes"]["vmoe_base"]["ood"] = []
    assert changed_science(study) == ["experiment_changes.vmoe_base.ood=[]"]


def test_exact_tests_are_corrected_over_the_board(tmp_path):
    study = fabricate(tmp_path, seeds=6)
    claims = [claim("small_vmoe_iid"), claim("small_vmoe_iid", id="again"), claim("small_vmoe_iid", id="size", size=10.0, tolerance=1.0)]
    found = board(study, claims)
    assert [finding.p_value for finding in found.values()] == pytest.approx([2 / 64] * 3)
    assert [finding.adjusted for finding in found.values()] == pytest.approx([6 / 64] * 3)
    assert found["again"].exact_test == "p = 0.03125, 0.09375 after Holm"
    assert [finding.verdict.word for finding in found.values()] == ["reproduced", "reproduced", "direction only"]


def test_a_bootstrap_is_shown_from_twenty_seeds_on_and_decides_nothing(tmp_path):
    study = fabricate(tmp_path, gains=tuple(0.02 + 0.001 * (seed % 5) for seed in range(20)), seeds=20)
    text = explanation(study, board(study, [claim("small_vmoe_iid")])["small_vmoe_iid"])
    assert "vmoe_base, besides: exact sign test p = 1.907e-06; bootstrap (BCa) of the gain in points [+2.1" in text
    study = fabricate(tmp_path, seeds=6)
    text = explanation(study, board(study, [claim("small_vmoe_iid")])["small_vmoe_iid"])
    assert "exact sign test p = 0.03125." in text and "bootstrap" not in text


def test_a_claim_about_one_side(tmp_path):
    study = fabricate(tmp_path)
    value = claim("nac_authors_scale_free_iid", population="vmoe_base", subject="suite", scale="small", profile="corrected", size=90.0)
    verdict = board(study, [value])["nac_authors_scale_free_iid"].verdict
    # The seeds agree, but each was counted in 359 images: 100 * 4.302653 / sqrt(3) / (359 * sqrt(12)) = 0.20.
    assert verdict.word == "reproduced" and "90.00 % [89.80, 90.20]" in verdict.why


def test_a_claim_about_a_teacher_is_judged_by_its_one_run(tmp_path):
    study = plan(tmp_path, "paper", ["deep_incubation_vit_base"])
    finish(study, lambda run, _: 296 / 359)
    wide = claim("deep_incubation_base_iid", id="wide", tolerance=5.0)
    outside = claim("deep_incubation_base_iid", id="outside", metric="ood_top1")
    found = board(study, [claim("deep_incubation_base_iid"), wide, outside])
    # Clopper and Pearson's bounds of 296 in 359, by the beta distribution's quantiles: 0.78114 and 0.86244.
    narrow = found["deep_incubation_base_iid"].verdict
    assert narrow.word == "inconclusive" and "One run does not say how far seeds differ" in narrow.why
    assert narrow.why.startswith("82.45 % in one run, by its images alone, [78.11, 86.24] lies partly within [81.4, 83.4].")
    assert found["wide"].verdict.word == "reproduced" and found["wide"].cost is None
    assert "has not exactly one ood_top1" in found["outside"].verdict.why
    text = explanation(study, found["wide"])
    assert "tolerance 5, at least 1 seed\n" in text
    assert "snakemake --cores all deep_incubation_vit_base --config scale=paper" in text


def test_a_claim_about_a_teacher_that_a_study_lacks(tmp_path):
    finding = board(plan(tmp_path, "small", STUDENTS))["deep_incubation_base_iid"]
    assert finding.verdict.word == "not run"
    assert "This study has no deep_incubation_vit_base/teacher in profile corrected." in finding.verdict.why
    one = {"profiles": ["released"], "seeds": 1}
    study = build_study(load.settings({"scale": "paper", "experiments": ["deep_incubation_vit_base"], "overrides": one}))
    expected = sum(cost.gpu_hours for run_id, cost in cost_of(study).items() if not run_id.startswith("split_teacher/"))
    assert finding.cost == pytest.approx(expected) and expected > 10


def test_a_claim_about_several_sets_is_not_judged(tmp_path):
    sets = "experiment_changes.vmoe_base.ood=[imagenet-r@224, imagenet-1k@224]"
    study = plan(tmp_path, "paper", STUDENTS, [sets])
    found = board(study, [claim("vmoe_gain_100", metric="ood_top1")])["vmoe_gain_100"].verdict
    assert found.word == "not run" and "vmoe_base/m2mkd has not exactly one ood_top1 in this study" in found.why


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
    study = fabricate(tmp_path)
    arguments = ["claims", "--scale", "small", *(word for name in STUDENTS for word in ("--experiment", name))]
    shown = CliRunner().invoke(app, [*arguments, "small_vmoe_iid"])
    assert shown.exit_code == 0 and shown.stdout.startswith("small_vmoe_iid: reproduced")
    listed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert list(listed) == [one.id for one in load_claims()] and listed["small_vmoe_iid"]["seeds"] == 3
    assert study.rows
    with pytest.raises(InputError, match="small_vmo: no claim of that id"):
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
