"""The whole workflow at scale smoke: what is there afterwards, what is computed again, and what is not."""

import json
import os
import re
import shutil

import pytest

from m2mkd.study.phase import PHASES
from tests.workflow.conftest import Project
from tests.workflow.studies import tables


def test_every_phase_has_run_and_left_nothing_behind(finished):
    root = finished.root / "results" / "smoke"
    # Every phase has its folder, which is an output for DVC.
    assert {path.name for path in (root / "runs").iterdir()} == set(PHASES)
    assert {path.parent.name for path in (root / "runs").glob("*/*")} == set(PHASES) - {"import_weights"}
    assert [path for path in (root / "work").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_results_are_there(finished):
    root = finished.root / "results" / "smoke"
    assert {"results.csv", "results.md", "results.tex", "runs.parquet"} <= set(tables(finished))
    assert (root / "report.html").stat().st_size > 10_000
    metrics = json.loads((root / "metrics.json").read_text())
    assert 0 <= metrics["vmoe_base"]["m2mkd"]["corrected"]["iid_top1"] <= 1


def test_out_of_distribution_uses_only_the_common_classes(finished):
    metrics = json.loads(next((finished.root / "results/smoke/runs/evaluate").glob("*/metrics.json")).read_text())
    assert metrics["ood"]["digits-r"]["classes"] == 6


def test_snakemake_makes_its_own_report_with_ours_in_it(finished, tmp_path):
    finished.snakemake("--report", str(tmp_path / "workflow.html"))
    text = (tmp_path / "workflow.html").read_text()
    assert "Report of the study" in text and "at a scale other than" in text.lower()
    assert "one page that needs nothing but itself" in text


def test_a_second_run_does_nothing(finished):
    assert finished.jobs() == []


def test_modules_that_share_a_job_have_the_same_results_and_are_redone_alone(finished, copy_of):
    project = copy_of(finished)
    before = tables(project)
    modules = {path: path.read_bytes() for path in project.root.glob("results/smoke/runs/distill_module/*/m*")}
    shutil.rmtree(project.root / "results/smoke/runs/distill_module")
    project.set_config(overrides={"modules_per_job": 3})
    jobs = project.jobs("all_distill_module")
    assert len([name for name in jobs if name.startswith("distill_module_")]) == 2 and jobs.count("distill_module") == 2
    assert all(path.read_bytes() == content for path, content in modules.items())
    assert project.jobs("all_distill_module") == []
    shutil.rmtree(next((project.root / "results/smoke/runs/distill_module").iterdir()))
    assert project.jobs("all_distill_module") == ["all_distill_module", "distill_module"]
    project.set_config(overrides={})
    assert project.jobs("all_distill_module") == []
    project.jobs()
    assert tables(project) == before


def test_an_imported_teacher_gives_what_the_own_one_gave(finished, copy_of):
    project = copy_of(finished)
    root = project.root / "results/smoke/runs"
    (teacher,), (meta,) = (list((root / phase).glob("*")) for phase in ("assemble_teacher", "pretrain_meta"))
    measured = next((root / "measure_hybrid").glob("*/metrics.json")).read_bytes()
    imports = {
        "teacher": f"{teacher.relative_to(project.root)}/model.safetensors",
        "meta": f"{meta.relative_to(project.root)}/model.safetensors",
    }
    project.set_config(overrides={"experiment_changes": {"teacher_deit_large": {"imports": imports}}}, experiments=["teacher_deit_large"])
    jobs = project.jobs("all_evaluate_teacher", "all_split_teacher")
    assert {name: jobs.count(name) for name in set(jobs) if not name.startswith("all_")} == {
        "import_weights": 1,
        "evaluate_teacher": 1,
        "split_teacher": 4,
    }
    # Only where modules are distilled is the meta model needed, and are the teacher's modules measured in it.
    project.set_config(experiments=["vmoe_base/m2mkd"])
    jobs = project.jobs("all_measure_hybrid")
    assert sorted(jobs) == ["all_measure_hybrid", "import_weights", "measure_hybrid"]
    assert {path.read_bytes() for path in (root / "measure_hybrid").glob("*/metrics.json")} == {measured}
    os.utime(project.root / imports["meta"])
    assert project.jobs("all_measure_hybrid") == []


def test_removing_one_intermediate_redoes_what_depends_on_it(finished, copy_of):
    project = copy_of(finished)
    before = tables(project)
    split = [
        record
        for record in (project.root / "results/smoke/runs/split_teacher").glob("*/run.json")
        if json.loads(record.read_text())["config"]["index"] == 2
    ]
    shutil.rmtree(split[0].parent)
    jobs = project.jobs()
    # Module 2 of either family, and of those students, probes and detectors that are made of modules.
    assert {name: jobs.count(name) for name in sorted(set(jobs))} == {
        "all": 1,
        "compile": 1,
        "distill_module": 2,
        "evaluate": 2,
        "evaluate_detector": 1,
        "report": 1,
        "split_teacher": 1,
        "track": 1,
        "train_detector": 1,
        "train_probe": 1,
        "train_student": 2,
    }
    assert tables(project) == before


def test_a_published_number_is_compiled_anew(finished, copy_of):
    project = copy_of(finished)
    published = project.root / "results/published/m2mkd.csv"
    published.write_text(published.read_text().replace("vmoe_base,m2mkd,iid,top1,,", "vmoe_base,m2mkd,iid,top1,12.34,"))
    assert project.jobs() == ["all", "compile", "report", "track"]
    assert b"12.34" in tables(project)["results.md"]


def test_dvc_and_snakemake_do_not_repeat_each_other(finished, copy_of):
    project = copy_of(finished)
    repro = project.run("dvc", "repro")
    assert "Nothing to be done" in repro.stdout + repro.stderr
    assert "Job stats" not in repro.stdout + repro.stderr
    assert "Data and pipelines are up to date" in project.run("dvc", "repro").stdout
    assert project.jobs() == []


def test_snakemake_does_not_repeat_what_dvc_did(project):
    project.set_config(scale="smoke", experiments=["vmoe_base/end_to_end"])
    project.run("dvc", "repro", "students")
    assert project.jobs("all_evaluate") == []


def test_a_changed_learning_rate_is_trained_in_a_fresh_clone(kept, tmp_path):
    clone = kept.clone(tmp_path / "clone")
    clone.run("dvc", "pull")
    before = tables(clone)
    assert before == tables(kept)
    assert clone.jobs("all_evaluate") == []
    for name, value in (("user.name", "t"), ("user.email", "t@localhost")):
        clone.run("git", "config", name, value)
    # '+', for a field that the file does not have yet; what it changes is what --set and --config change.
    clone.run("dvc", "exp", "run", "--set-param", "config/config.yaml:+overrides.recipes.vmoe_end_to_end_100.lr=0.0005")
    after = tables(clone)
    changed = [line for line in after["results.csv"].splitlines() if line not in before["results.csv"].splitlines()]
    assert sorted(line.split(b",")[2] for line in changed) == [b"end_to_end", b"pure_kd"]

    clone.run("git", "commit", "-qam", "another learning rate")
    metrics = json.loads(clone.run("dvc", "metrics", "diff", "HEAD~1", "HEAD", "--json").stdout)
    # What others gained over it moves with it.
    moved = {tuple(name.split(".")[:2]) for name in metrics["results/smoke/metrics.json"] if not name.endswith("_gain")}
    # The probe of the student may move too; nothing else can.
    assert moved - {("fewshot_cifar100_vmoe", "vmoe_base/end_to_end")} == {("vmoe_base", "end_to_end"), ("vmoe_base", "pure_kd")}
    plots = json.loads(clone.run("dvc", "plots", "diff", "HEAD~1", "HEAD", "--json").stdout)["data"]
    (accuracies,) = plots["accuracy of students"]
    points = accuracies["content"]["data"]["values"]
    by_commit = [{point["row"]: point["iid_top1_mean"] for point in points if point["rev"] == rev} for rev in accuracies["revisions"]]
    assert {row for row in by_commit[0] if by_commit[0][row] != by_commit[1][row]} == {line.split(b",")[0].decode() for line in changed}
    (curves,) = plots["validation accuracy of V-MoE"]
    points = curves["content"]["data"]["values"]
    assert {point["rev"] for point in points} == set(curves["revisions"])
    # One line a variant, which goes through no epoch twice and has no gap.
    assert len({(point["rev"], point["field"], point["epoch"]) for point in points}) == len(points)
    assert len({point["field"] for point in points}) == 3 and all(point[point["field"]] for point in points)
    shown = json.loads(clone.run("dvc", "plots", "show", "--json").stdout)["data"]
    drawn = {f"{what} of {student}" for what in ("validation accuracy", "training cross-entropy") for student in ("V-MoE", "NAC")}
    assert set(shown) == {"accuracy of students", "gains that claims are about"} | drawn and all(shown[name] for name in drawn)


def test_a_crate_is_a_target_and_goes_on_as_a_project(finished, copy_of):
    project = copy_of(finished)
    assert project.jobs("crate") == ["crate"]
    checked = project.run("m2mkd", "crate", "check", "results/smoke/crate").stdout
    assert "outputs are recorded by digest only" in checked
    # With everything in it no run is computed again, only what is made of them.
    project.run("m2mkd", "crate", "--scale", "smoke", "--weights", "all")
    inside = Project(project.root / "results/smoke/crate", "smoke")
    assert "0 outputs are recorded by digest only" in inside.run("m2mkd", "crate", "check", ".").stdout
    printed = inside.snakemake("--dry-run", "--quiet", "rules")
    jobs = re.findall(r"^(\w+) +\d+$", printed.stdout + printed.stderr, flags=re.MULTILINE)
    assert {"all", "track"} <= set(jobs) <= {"all", "compile", "report", "track", "total"}


@pytest.mark.parametrize("damage", ["config", "weights"])
def test_a_foreign_or_damaged_output_is_refused_by_name(finished, copy_of, damage):
    project = copy_of(finished)
    meta = project.folder("runs/pretrain_meta/*/run.json").parent
    if damage == "weights":
        content = bytearray((meta / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (meta / "model.safetensors").write_bytes(content)
    else:
        record = json.loads((meta / "run.json").read_text())
        (meta / "run.json").write_text(json.dumps(record | {"id": "pretrain_meta/0000000000000000"}))
    shutil.rmtree(next((project.root / "results/smoke/runs/incubate_module").iterdir()))
    done = project.snakemake("all_incubate_module", check=False)
    assert done.returncode
    log = next(log for log in (project.root / "results/smoke/logs/incubate_module").iterdir() if "m2mkd: " in log.read_text()).read_text()
    assert f"{meta.relative_to(project.root)}/{'run.json' if damage == 'config' else 'model.safetensors'}" in log
    assert "run the workflow again" in log
    assert "Traceback" not in log
    assert len(list((project.root / "results/smoke/runs/incubate_module").glob("*/run.json"))) == 3
