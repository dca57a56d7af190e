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
from m2mkd.results.judge.board import Finding, _Board, members_named, verdict_board
from m2mkd.results.judge.changes import changed_science
from m2mkd.results.judge.results import Results
from m2mkd.results.judge.verdicts import DECIDED
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


def fabricate(root: Path, scale: str = "small", gains=GAINS, seeds: int = 6, **changes) -> Study:
    study = plan(root, scale, STUDENTS, seeds=seeds, **changes)
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
    assert suite.verdict.word == "holds in typical seeds"
    assert suite.verdict.interval.estimate == pytest.approx(2.05)
    assert [seed.accuracy for seed in suite.comparisons[0][0].seeds] == pytest.approx([0.92, 0.921, 0.922, 0.919, 0.918, 0.923])
    assert suite.p_value == pytest.approx(2 / 64) and suite.family == "vmoe"
    assert suite.verdict.needs.endswith(" of which none collapses, if the interval stays.")
    assert paper.verdict.word == "smoke-pass"
    assert "judges nothing about the paper" in paper.verdict.why and paper.verdict.interval is None
    # Of a study that has no NAC, and of other scales.
    assert found["small_nac_iid"].verdict.word == "not run"
    assert "no nac_tiny_imagenet_scale_free/m2mkd" in found["small_nac_iid"].verdict.why
    assert found["vmoe_gain_300"].verdict.word == "not run"
    assert "Judged at scale tiny-imagenet alone; this is scale small." in found["tiny_vmoe_iid"].verdict.why
    assert all(finding.verdict.needs for finding in found.values() if finding.verdict.word not in DECIDED), "says what would decide it"
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


def test_a_seed_that_collapses_is_named(tmp_path):
    study = fabricate(tmp_path, gains=(*GAINS, -0.60), seeds=7)
    verdict = board(study)["small_vmoe_iid"].verdict
    assert verdict.word == "inconclusive"
    assert "vmoe_base: seed 6 (-60.00) stands apart from the others (+2.05 points on average)" in verdict.why


def test_few_seeds_leave_a_claim_open(tmp_path):
    verdict = board(fabricate(tmp_path, seeds=5))["small_vmoe_iid"].verdict
    assert verdict.word == "inconclusive" and verdict.why.endswith(": 5 of the 6 seeds that a verdict takes.")
    assert verdict.needs == "1 more seed of each arm." and verdict.interval.estimate == pytest.approx(2.0)


def test_claims_are_judged_at_once_as_the_file_has_them(tmp_path):
    """However few of them a study runs; those about ablations and about the paper apart."""
    study, claims = fabricate(tmp_path), load_claims()
    found = board(study)
    ablations = {one.id for one in claims if one.population[0].startswith("ablation_")}
    alike = [one.id for one in claims if one.scale == "small" and one.id not in ablations]
    assert found["small_vmoe_iid"].at_once == len(alike) >= 2
    assert found["ablation_kl_norm_batch"].at_once == len([one for one in claims if one.scale == "small" and one.id in ablations])
    few, many = ([claim("small_vmoe_iid", id=f"claim_{place}") for place in range(count)] for count in (1, 30))
    alone, together = board(study, few)["claim_0"].verdict, board(study, many)["claim_0"].verdict
    assert together.interval == alone.interval == alone.measured.typical
    # t(1 - 0.025 / 30, 5) / t(0.975, 5) = 6.139004 / 2.570582
    width, wide = (one.measured.typical.high - one.measured.typical.low for one in (alone, together))
    assert wide / width == pytest.approx(6.139004 / 2.570582, rel=1e-3)


def test_weak_seeds_are_named(tmp_path):
    study = plan(tmp_path, "small", ["nac_tiny_imagenet_scale_free"], seeds=6)
    treated = {run_id for row in study.rows if row.variant == "m2mkd" for run_id in row.measured}
    finish(study, lambda run, seed: 0.8499 if run.id in treated and seed == 4 else 0.85)
    compile_tables(Results.read(study))
    written = json.loads(Path("results/small/tables/claims.json").read_text())
    assert written["small_nac_iid"]["weak_seeds"] == {"nac_tiny_imagenet_scale_free/m2mkd": [[4, 0.8499]]}
    assert written["small_nac_iid"]["why"].endswith(" Weak seed: 4 of nac_tiny_imagenet_scale_free/m2mkd (84.99 %).")
    assert "weak_seeds" in written["small_vmoe_iid"] and written["small_vmoe_iid"]["weak_seeds"] == {}
    # What is weak out of distribution, or of another family, is not.
    ood = claim("small_nac_iid", id="ood", metric="ood_top1")
    assert [arm.weak for arm in board(study, [ood])["ood"].comparisons[0]] == [((4, 0.8499),), ()]


def test_programs_find_all_that_a_page_says(tmp_path):
    study = fabricate(tmp_path)
    compile_tables(Results.read(study))
    written = json.loads(Path("results/small/tables/claims.json").read_text())
    assert list(written) == [one.id for one in load_claims()]
    page = (ROOT / "docs/results.md").read_text()
    fields = dict.fromkeys(name for record in written.values() for name in record)
    assert re.findall(r"^\| `(\w+)` \| (?!(?:string|int64|double|bool)\b)", page.partition("### `claims.json`")[2], re.M) == list(fields)
    found, finding = written["small_vmoe_iid"], board(study)["small_vmoe_iid"]
    assert (found["verdict"], found["decided"], found["subject"], found["unit"]) == ("holds in typical seeds", True, "suite", "points")
    assert found["claim"] == finding.claim.claim and found["why"] == finding.verdict.why and found["needs"] == finding.verdict.needs
    assert found["low_at_once"] < found["low"] < found["estimate"] < found["high"] < found["high_at_once"]
    assert found["differences"] == {"vmoe_base": [[seed, pytest.approx(100 * gain)] for seed, gain in enumerate(GAINS)]}
    assert found["unseen_collapses"] == pytest.approx(1 - 0.025 ** (1 / 6))
    assert not written["vmoe_gain_100"]["decided"] and written["vmoe_gain_100"]["gpu_hours_to_judge"] > 100


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
    study = fabricate(tmp_path, "paper", gains=(0.050, 0.049, 0.051, 0.0505, 0.0495, 0.050))
    finding = board(study)["vmoe_gain_100"]
    assert finding.verdict.word == "holds in typical seeds", finding.verdict.why
    assert {arm.profile for pair in finding.comparisons for arm in pair} == {"released"}
    assert finding.cost is None


def test_a_changed_scale_judges_nothing(tmp_path):
    change = ["recipes.vmoe_finetune.epochs=3"]
    found = board(fabricate(tmp_path, "paper", overrides=change))["vmoe_gain_100"]
    assert found.verdict.word == "smoke-pass"
    assert "At scale paper with recipes.vmoe_finetune.epochs=3 this judges nothing about the paper." in found.verdict.why
    assert "not excluded" not in found.verdict.why and found.verdict.interval is None
    found = board(plan(tmp_path, "small", STUDENTS, change))["small_vmoe_iid"]
    assert found.verdict.word == "not run" and "this study changes recipes.vmoe_finetune.epochs=3" in found.verdict.why


def test_a_change_of_something_else_leaves_estimates_and_verdicts(tmp_path):
    """A claim whose own runs have the keys that they have without the change is judged as without it."""
    before = board(fabricate(tmp_path))["small_vmoe_iid"]
    change = ["recipes.nac_tiny_imagenet.epochs=3", "experiment_changes.nac_tiny_imagenet_scale_free.ood=[]"]
    names = [*STUDENTS, "nac_tiny_imagenet_scale_free"]
    study = plan(tmp_path, "small", names, change, seeds=6)
    finish(study, gaining(study))
    assert changed_science(study)
    found = board(study)
    assert found["small_vmoe_iid"].verdict == before.verdict
    assert "this study changes" in found["small_nac_iid"].verdict.why and found["small_nac_iid"].verdict.word == "not run"
    # Of a study without them nothing is said but that.
    few = board(plan(tmp_path, "small", STUDENTS, change, seeds=6))
    assert "This study has no nac_tiny_imagenet_scale_free/m2mkd" in few["small_nac_iid"].verdict.why
    # A change of what both build on is one of both.
    both = board(plan(tmp_path, "small", names, ["recipes.pretrain_meta.epochs=3"], seeds=6))
    assert all("this study changes" in both[name].verdict.why for name in ("small_vmoe_iid", "small_nac_iid"))


def test_a_variant_that_a_change_makes_is_not_judged(tmp_path):
    change = ["experiment_changes.vmoe_base.variants.longer={recipe: vmoe_finetune, init: modules}"]
    study = plan(tmp_path, "small", [*STUDENTS, "vmoe_base/longer"], change, seeds=6)
    finish(study, gaining(study))
    longer = claim("small_vmoe_iid", id="longer", comparison="longer - end_to_end")
    published = _Board(Results.read(study), []).published
    assert not published.has(members_named(longer), "corrected") and published.has(["vmoe_base/m2mkd", "vmoe_base/end_to_end"], "corrected")


def test_cost_of_what_is_not_run_is_that_of_the_plan(tmp_path):
    finding = board(plan(tmp_path, "smoke", STUDENTS))["kd_term_released"]
    names = ["vmoe_base/m2mkd", "vmoe_base_labels_only/modules"]
    seeds = {"profiles": ["released"], "seeds": 6}
    study = build_study(load.settings({"scale": "paper", "experiments": names, "overrides": seeds}))
    # How well modules fit the meta model is measured for its own sake; the claim does not need it.
    expected = sum(cost.gpu_hours for run_id, cost in cost_of(study).items() if not run_id.startswith("measure_hybrid/"))
    assert finding.cost == pytest.approx(expected)
    assert f"Scale paper with 6 seeds: about {expected:,.1f} GPU-hours" in finding.verdict.needs


MORE = "experiment_changes.vmoe_base.variants.m2mkd.seeds"


def test_arms_of_different_seeds_are_paired_by_those_that_both_have(tmp_path):
    study = fabricate(tmp_path, gains=(*GAINS, -0.5, -0.5), overrides=[f"{MORE}=8"])
    finding = board(study)["small_vmoe_iid"]
    assert [len(arm.seeds) for arm in finding.comparisons[0]] == [8, 6] and finding.seeds == 6
    assert finding.verdict.word == "holds in typical seeds" and finding.verdict.interval.estimate == pytest.approx(2.05)
    assert finding.verdict.why.endswith(" 2 seeds that not all arms have are left out.")
    # A seed that the other arm lacks is not missed, but one that both have is.
    treated = {seed.seed: seed.run for seed in finding.comparisons[0][0].seeds}
    shutil.rmtree(study.folder(treated[7]))
    assert board(study)["small_vmoe_iid"].verdict.why == finding.verdict.why
    shutil.rmtree(study.folder(treated[2]))
    assert "Seed 2 of vmoe_base/m2mkd is missing" in board(study)["small_vmoe_iid"].verdict.why


def test_seeds_alone_change_no_science(tmp_path):
    study = plan(tmp_path, "small", ["vmoe_base/end_to_end"], ["experiment_changes.vmoe_base.seeds=4", f"{MORE}=5"])
    assert changed_science(study) == []
    study.overrides["experiment_changes"]["vmoe_base"]["ood"] = []
    assert changed_science(study) == ["experiment_changes.vmoe_base.ood=[]"]


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
    # The seeds agree, but each was counted in 359 images: 100 * 2.570582 / sqrt(6) / (359 * sqrt(12)) = 0.08.
    assert verdict.word == "holds in typical seeds" and "90.00 % [89.92, 90.08] lies within [89, 91]" in verdict.why


def test_a_claim_about_a_teacher_is_judged_by_its_one_run(tmp_path):
    study = plan(tmp_path, "paper", ["deep_incubation_vit_base"])
    finish(study, lambda run, _: 296 / 359)
    wide = claim("deep_incubation_base_iid", id="wide", tolerance=6.0)
    outside = claim("deep_incubation_base_iid", id="outside", metric="ood_top1")
    found = board(study, [claim("deep_incubation_base_iid"), wide, outside])
    # Clopper and Pearson's bounds of 296 in 359, by the beta distribution's quantiles: 0.78114 and 0.86244.
    narrow = found["deep_incubation_base_iid"].verdict
    assert narrow.word == "inconclusive" and "one does not say how far seeds differ" in narrow.needs
    assert narrow.why.startswith("82.45 % in one run, by its images alone, [78.11, 86.24] ([")
    assert narrow.why.endswith("] with 3 claims at once) lies partly within [81.4, 83.4].")
    assert found["wide"].verdict.word == "reproduced" and found["wide"].cost is None
    assert "has not exactly one ood_top1" in found["outside"].verdict.why
    text = explanation(study, found["wide"])
    assert "tolerance 6, at least 1 seed\n" in text
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
    study = fabricate(tmp_path, seeds=3)
    arguments = ["claims", "--scale", "small", *(word for name in STUDENTS for word in ("--experiment", name))]
    shown = CliRunner().invoke(app, [*arguments, "small_vmoe_iid"])
    assert shown.exit_code == 0 and shown.stdout.startswith("small_vmoe_iid: inconclusive")
    listed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert list(listed) == [one.id for one in load_claims()] and listed["small_vmoe_iid"]["seeds"] == 3
    assert "What would decide it: 3 more seeds of each arm." in shown.stdout
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
