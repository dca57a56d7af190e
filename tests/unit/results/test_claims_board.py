"""Verdicts of the board on fabricated runs: at chance, at another scale, of other seeds, of seeds that collapse, of a teacher."""

import json
import re
import shutil
from pathlib import Path

import pytest

from m2mkd.config import load
from m2mkd.config.claims import load_claims
from m2mkd.planning.cost import cost_of
from m2mkd.results.judge.board import _Board, members_named
from m2mkd.results.judge.changes import changed_science
from m2mkd.results.judge.results import Results
from m2mkd.results.judge.verdicts import DECIDED
from m2mkd.results.tables.claims_json import claim_records
from m2mkd.results.tables.claims_table import explanation
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.phases import TrainStudent
from m2mkd.study.plan import build_study
from tests.fabricated import ROOT, edit_record, finish, plan
from tests.unit.results.boards import GAINS, STUDENTS, board, claim, fabricate, gaining, one_of


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


def test_claims_name_runs_that_other_code_computed(tmp_path):
    study = fabricate(tmp_path)
    run = one_of(study, TrainStudent)
    edit_record(study, run, lambda record: record["code"].update({"m2mkd.models.vit": "0" * 16}))
    results = Results.read(study)
    (finding,) = [finding for finding in results.findings if finding.claim.id == "small_vmoe_iid"]
    assert finding.outdated == (run.id,)
    assert finding.why.endswith(f"Other code than this computed 1 of its {len(finding.runs)} runs ('m2mkd runs list' names it).")
    assert claim_records(results.findings)["small_vmoe_iid"]["outdated_runs"] == 1


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
    assert written["small_nac_iid"]["why"].endswith(" Weak seeds: nac_tiny_imagenet_scale_free/m2mkd 4 (84.99 %).")
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
    # The seeds agree, but each was counted in 1,000 images: 100 * 2.570582 / sqrt(6) / (1000 * sqrt(12)) = 0.03.
    assert verdict.word == "holds in typical seeds" and "90.00 % [89.97, 90.03] lies within [89, 91]" in verdict.why


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
