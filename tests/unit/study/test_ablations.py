"""Ablations: one thing is varied, runs of the study are shared, and differences are paired by seed."""

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.config.claims import Claim, load_claims
from m2mkd.config.experiment import AblationExperiment
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.judge.board import verdict_board
from m2mkd.results.judge.results import Results
from m2mkd.results.read.records import differences
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.lineage import anchor_of
from m2mkd.study.phases import Evaluate
from m2mkd.study.plan import build_study
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from tests.conftest import ROOT
from tests.fabricated import edit_record, finish, plan

FILES = sorted((ROOT / "config/experiments").glob("ablation_*.yaml"))
NEW = """kind: ablation
title: New
of: vmoe_base/m2mkd
scales: [small]
settings:
  one: {}
  other: %s
"""


def whole(**settings) -> Study:
    return build_study(load.settings({"scale": "small"} | settings), ablations=True)


def written(root: Path, other: str, of: str = "vmoe_base/m2mkd") -> None:
    """A new ablation in a copy of the configuration; its study is planned by the caller."""
    plan(root, "small", ["teacher_deit_large"])
    (root / "config/experiments/ablation_new.yaml").write_text(NEW.replace("vmoe_base/m2mkd", of) % other)


def test_the_study_itself_has_none_and_the_whole_has_every_one():
    study, both = build_study(load.settings({"scale": "small"})), whole()
    names = set(load.ablations("small", study.scale))
    assert len(names) == 13 and not names & {row.experiment for row in study.rows}
    assert both.rows[: len(study.rows)] == study.rows and {row.experiment for row in both.rows[len(study.rows) :]} == names
    assert set(study.runs) < set(both.runs) and study.key != both.key
    assert (study.root, study.pages, both.root, both.pages) == ("results/small",) * 3 + ("results/small/ablations",)
    assert build_study(load.settings({"scale": "smoke"}), ablations=True).key == build_study(load.settings({"scale": "smoke"})).key


def test_settings_that_the_study_has_anyway_are_its_runs():
    rows = {(row.experiment, row.variant): row for row in whole().rows}
    same = {
        "vmoe_base/m2mkd": [
            *("kl_norm/batch", "alpha/alpha_0.5", "tau/tau_1", "target/soft", "stitch/dropped", "loaded_modules/all"),
            *("expert_init/m2mkd_trunc02", "router/m2mkd_naive", "module_number/four", "objectives/soft"),
        ],
        "vmoe_base/end_to_end": ["loaded_modules/none", "expert_init/end_to_end_trunc02", "router/end_to_end_naive"],
        "vmoe_base_labels_only/modules": ["kl_norm/labels_only"],
        "nac_tiny_imagenet_scale_free/end_to_end": ["graph_cut/fitted_at_cut", "eval_noise/end_to_end_zero"],
        "nac_tiny_imagenet_scale_free/m2mkd": ["eval_noise/m2mkd_zero", "codes/independent"],
    }
    for student, settings in same.items():
        own = rows[tuple(student.split("/"))]
        for setting in settings:
            row = rows[tuple(f"ablation_{setting}".split("/"))]
            assert (row.trained, row.measured) == (own.trained, own.measured), setting
    noisy = rows["ablation_eval_noise", "m2mkd_upstream"]
    assert noisy.trained == rows["nac_tiny_imagenet_scale_free", "m2mkd"].trained and noisy.measured != noisy.trained
    shared = {setting for settings in same.values() for setting in settings}
    ablated = {"/".join(name).removeprefix("ablation_"): row for name, row in rows.items() if name[0].startswith("ablation_")}
    others = [row for name, row in ablated.items() if name not in shared]
    own = {row.measured for name, row in rows.items() if not name[0].startswith("ablation_")}
    assert len(others) == 32 and len({row.measured for row in others} - own) == 32


@pytest.mark.parametrize(
    ("setting", "phase", "changed"),
    [
        ("kl_norm/batch_x_classes", "distill_module", {"compat.kl_norm"}),
        ("alpha/alpha_0.9", "distill_module", {"loss.alpha"}),
        ("tau/tau_4", "distill_module", {"loss.tau"}),
        ("target/hard", "distill_module", {"loss.kind", "compat.kl_norm"}),
        ("stitch/kept", "train_student", {"student.stitch", "stitch_width"}),
        ("stitch/kept_at_half_rate", "train_student", {"student.stitch", "stitch_width", "recipe.lr"}),
        ("codes/of_modules", "train_student", {"codes"}),
        ("loaded_modules/first_half", "train_student", {"load_modules"}),
        ("expert_init/m2mkd_fastmoe", "train_student", {"compat.expert_init"}),
        ("router/m2mkd_vmoe", "train_student", {"student.router"}),
        ("graph_cut/fitted_at_0.8", "train_student", {"compat.graph_fit_cut"}),
        ("eval_noise/m2mkd_upstream", "evaluate", {"compat.eval_noise"}),
    ],
)
def test_a_setting_changes_what_it_says_and_nothing_else(setting, phase, changed):
    study = whole(experiments=["teacher_deit_large"])
    experiment, _, variant = f"ablation_{setting}".partition("/")
    ablation = load.experiment(experiment, study.scale)
    assert isinstance(ablation, AblationExperiment)
    rows = {row.variant: row for row in study.rows if row.experiment == experiment}

    def first(row):
        waiting = list(row.measured)
        while study.runs[waiting[0]].phase != phase:
            waiting = [run_id for ids in study.runs[waiting[0]].upstream.values() for run_id in ids]
        return study.runs[waiting[0]].config.model_dump(mode="json")

    one, other = first(rows[variant]), first(rows[ablation.reference(variant)])
    assert {field for field, _, _ in differences(one, other)} == changed


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("{compat: {kl_nrm: numel}}", r"settings\.other: compat: kl_nrm numel is not in config/compat.yaml; there are kl_norm"),
        ("{compat: {kl_norm: nummel}}", r"kl_norm nummel is not in config/compat.yaml; give numel or batch"),
        ("{compat: {graph_fit_cut: 0.8}}", r"settings\.other: compat: graph_fit_cut changes nothing in vmoe_base/m2mkd"),
        ("{of: vmoe_base/m2mk}", r"settings\.other: of: 'vmoe_base/m2mk' is not the variant of a student experiment"),
        ("{of: ood_imagenet_r/vmoe_base}", "is not the variant of a student experiment"),
        ("{alpha: 0.3}", r"ablation_new\.yaml: ablation\.settings\.other\.alpha is not a field here"),
        (
            "{models: {vmoe_bas: {stitch: kept}}}",
            r"experiment ablation_new: settings\.other: models\.vmoe_bas: the scale or the overrides change it",
        ),
        ("{experiment_changes: {vmoe_base: {distil: {}}}}", "did you mean 'distill'"),
        ("{against: three}", r"settings\.other\.against: three is not another setting; there are one, other"),
        ("{against: other}", "other is not another setting"),
        ("{models: {vmoe_base: {heads: 7}}}", r"experiment ablation_new: settings\.other: .*width 48 is not a multiple of heads 7"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(tmp_path, monkeypatch, other, message):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, other)
    with pytest.raises(InputError, match=message):
        whole()


def test_a_wrong_scale_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "{}")
    path = Path("config/experiments/ablation_new.yaml")
    path.write_text(path.read_text().replace("[small]", "[small, smal]"))
    with pytest.raises(InputError, match=r"ablation_new\.yaml: scales: .*smal"):
        whole()


def test_settings_are_compared_with_the_first_or_with_the_one_they_name():
    scale = load.scale("small", {})
    init, loaded = (load.experiment(f"ablation_{name}", scale) for name in ("expert_init", "loaded_modules"))
    assert [init.reference(name) for name in init.settings] == [*["end_to_end_trunc02"] * 3, "m2mkd_trunc02"]
    assert {loaded.reference(name) for name in loaded.settings} == {"all"}


def test_one_setting_can_be_chosen_and_an_unknown_one_is_refused():
    study = build_study(load.settings({"scale": "small", "experiments": ["ablation_alpha/alpha_0.9"]}))
    assert [(row.experiment, row.variant) for row in study.rows] == [("ablation_alpha", "alpha_0.9")]
    with pytest.raises(InputError, match=r"no variant 'alpha'; it has alpha_0.5, alpha_0.1"):
        build_study(load.settings({"scale": "small", "experiments": ["ablation_alpha/alpha"]}))


# --- results ---------------------------------------------------------------------------------------------------------

GAINS = {"other": (0.02, 0.03, 0.04) * 2}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A whole study of one student and one new ablation of it, three seeds each, finished with known accuracies."""
    return finished(tmp_path, monkeypatch, 3)


@pytest.fixture
def larger(tmp_path, monkeypatch) -> Study:
    """The same with as many seeds as a verdict takes."""
    return finished(tmp_path, monkeypatch, 6)


def finished(tmp_path, monkeypatch, seeds: int) -> Study:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "{compat: {expert_init: fastmoe}}")
    for path in Path("config/experiments").glob("ablation_*.yaml"):
        if path.stem != "ablation_new":
            path.unlink()
    claims = Path("config/claims.tsv")
    claims.write_text("".join(line for line in claims.read_text().splitlines(keepends=True) if "ablation_" not in line))
    planned = whole(experiments=["vmoe_base/end_to_end", "vmoe_base/m2mkd"], overrides={"seeds": seeds})
    better = {run_id: GAINS[row.variant] for row in planned.rows if row.variant in GAINS for run_id in row.measured}
    finish(planned, lambda run, seed: 0.8 + 0.01 * seed + better.get(run.id, (0.0,) * 6)[seed])
    return planned


def table(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Path("results/small/ablations/tables", name).read_text())))


def test_the_table_has_differences_paired_by_seed_with_intervals(study):
    compile_tables(Results.read(study))
    reference, other = table("ablations.csv")
    assert (reference["setting"], reference["reference"], reference["iid_difference"]) == ("one", "", "")
    assert (other["setting"], other["reference"], other["student"], other["n"]) == ("other", "one", "vmoe_base/m2mkd", "3")
    assert float(other["iid_difference"]) == pytest.approx(3.0)
    # The seeds' own spread cancels: 1 point of standard deviation is left, and t(0.975, 2) = 4.302653.
    assert float(other["iid_difference_half_width"]) == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert float(other["ood_difference"]) == pytest.approx(1.5)
    # One difference is a family of its own: t = 3 / (1 / sqrt(3)) with two degrees of freedom.
    assert float(other["iid_p_holm"]) == pytest.approx(0.0351, abs=1e-4) and reference["iid_p_holm"] == ""
    shown = Path("results/small/ablations/tables/ablations.md").read_text()
    assert "+3.00 ± 2.48" in shown and "84.00 ± " in shown
    (row,) = [row for row in study.rows if row.variant == "other"]
    page = Path("results/small/ablations/tables/ablations.html").read_text()
    assert f'<a href="../report.html#{anchor_of(row)}">+3.00 ± 2.48</a>' in page
    assert r"\toprule" in Path("results/small/ablations/tables/ablations.tex").read_text()
    # They stand in no other table, and the study's own pages are left alone.
    assert {line["experiment"] for line in table("results.csv")} == {"vmoe_base"}
    assert not Path("results/small/tables").exists()


def test_the_report_shows_them(study):
    write_report(Results.read(study))
    page = Path("results/small/ablations/report.html").read_text()
    assert 'id="table-ablations"' in page and 'id="figure-ablations"' in page
    assert "New: other IID +3.00, other OOD +1.50" in page
    (row,) = [row for row in study.rows if row.variant == "other"]
    assert f'<h3 id="{anchor_of(row)}">' in page
    assert f"{study.folder(row.measured[0])}/metrics.json --config scale=small" in page
    assert "snakemake --cores all ablations --config scale=small" in page


def claim(**changes) -> Claim:
    original = next(one for one in load_claims() if one.id == "small_vmoe_iid")
    return Claim.model_validate(original.model_dump() | {"population": ("ablation_new",), "comparison": "other - one"} | changes)


def test_claims_about_them_are_judged(larger):
    (found,) = verdict_board(Results.read(larger), [claim()])
    assert found.verdict.word == "holds in typical seeds" and found.verdict.interval.estimate == pytest.approx(3.0)
    (row,) = [row for row in larger.rows if row.variant == "other"]
    shutil.rmtree(larger.folder(row.measured[2]))
    (found,) = verdict_board(Results.read(larger, partial=True), [claim()])
    assert found.verdict.word == "inconclusive" and "Seed 2 of ablation_new/other is missing" in found.verdict.why


def test_a_difference_of_differences(larger):
    contrast = claim(comparison="(other - one) - (vmoe_base/m2mkd - vmoe_base/end_to_end)")
    (found,) = verdict_board(Results.read(larger), [contrast])
    # m2mKD and end to end have the same accuracies here.
    assert found.verdict.word == "holds in typical seeds" and found.verdict.interval.estimate == pytest.approx(3.0)
    assert [side.name for side in found.comparisons[0]] == [
        *("ablation_new/other", "ablation_new/one", "vmoe_base/m2mkd", "vmoe_base/end_to_end"),
    ]
    against = claim(comparison="(vmoe_base/m2mkd - vmoe_base/end_to_end) - (other - one)")
    assert verdict_board(Results.read(larger), [against])[0].verdict.word == "not reproduced"


@pytest.mark.parametrize(
    ("comparison", "alike"),
    [
        ("one - vmoe_base/m2mkd", "ablation_new/one and vmoe_base/m2mkd"),
        ("(other - one) - (one - vmoe_base/m2mkd)", "ablation_new/one and vmoe_base/m2mkd"),
        ("(other - one) - (other - vmoe_base/m2mkd)", "ablation_new/other - ablation_new/one and ablation_new/other - vmoe_base/m2mkd"),
    ],
)
def test_runs_are_not_compared_with_themselves(larger, comparison, alike):
    (found,) = verdict_board(Results.read(larger), [claim(comparison=comparison)])
    assert found.verdict.word == "inconclusive" and found.verdict.interval is None
    assert found.verdict.why == f"{alike} are the same runs, so that comparing them says nothing."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"comparison": "(a - b) - (c - d)", "unit": "relative"}, "does not fit a difference of differences"),
        ({"comparison": "a - b - c"}, "is not a comparison; write"),
        ({"comparison": "(a - b) - c"}, "is not a comparison; write"),
        ({"metric": "graph_denisty"}, "graph_density"),
    ],
)
def test_a_comparison_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        claim(**changes)


def test_claims_about_graphs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "small", ["ablation_graph_cut"], seeds=6)
    dense = {run_id for row in study.rows if row.variant == "fitted_at_0.8" for run_id in row.measured}
    finish(study, lambda run, seed: 0.9)
    for run in study.runs.values():
        if isinstance(run.config, Evaluate):
            with_graph(study, run, (0.3 if run.id in dense else 0.1) + 0.001 * run.config.seed)
    one = next(one for one in load_claims() if one.id == "ablation_graph_cut_small")
    (found,) = verdict_board(Results.read(study), [one])
    assert found.verdict.word == "reproduced" and found.verdict.interval.estimate == pytest.approx(20.0)
    compile_tables(Results.read(study))
    lines = list(csv.DictReader(io.StringIO(Path("results/small/tables/ablations.csv").read_text())))
    assert [float(line["graph_density_mean"]) for line in lines] == pytest.approx([0.1025, 0.3025, 0.1025])


def with_graph(study: Study, run: Run, density: float) -> None:
    """Add a diagnosed graph to the metrics of a finished evaluation."""
    path = Path(study.folder(run.id), "metrics.json")
    metrics = json.loads(path.read_text())
    numbers = {"density": density, "input_density": 0.5, "clustering": 0.2, "mean_degree": 3.0, "bandwidths": [1.0]}
    metrics["diagnostics"] = {"images": 32, "layers": [], "graph": numbers}
    path.write_text(json.dumps(metrics))
    edit_record(study, run, lambda record: record["outputs"].update({"metrics.json": sha256(path)}))


def test_commands_know_runs_of_ablations(study):
    (row,) = [row for row in study.rows if row.variant == "other"]
    arguments = ["--scale", "small", "--experiment", "vmoe_base/m2mkd"]
    shown = CliRunner().invoke(app, ["runs", "show", row.measured[0], *arguments])
    assert shown.exit_code == 0 and "# needed by ablation_new" in shown.stdout
    selected = ["vmoe_base/m2mkd", "--scale", "small"]
    assert row.measured[0] not in CliRunner().invoke(app, ["runs", "list", *selected]).stdout
    kept = CliRunner().invoke(app, ["runs", "gc", *selected]).stdout
    assert study.folder(row.measured[0]) not in kept
    judged = CliRunner().invoke(app, ["claims", "--json", *arguments])
    assert judged.exit_code == 0


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "config/experiments").glob("ablation_*.yaml")), ids=lambda path: path.stem)
def test_header_says_what_is_varied_where_how_long_and_how(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for field in ("Varies", "Published", "Hardware", "Time", "Expect"):
        assert sum(line.startswith(f"# {field}: ") for line in header) == 1, f"{path.stem}: header lacks '{field}: '"
    wanted = "ablations" if "\nscales: " in path.read_text() else path.stem  # one that no scale has is run by its name
    assert header[-1] == f"# Run: snakemake --cores all {wanted} --config scale=small"
    assert max(map(len, header)) <= 150
