"""What the workflow plans, and how it refuses."""

import re

import pytest

PAPER_JOBS = {
    "fetch": 10,
    "prepare": 7,
    "pretrain_meta": 8,
    "incubate_module": 44,
    "assemble_teacher": 10,
    "split_teacher": 52,
    "evaluate_teacher": 10,
    "measure_hybrid": 4,
    "distill_module": 168,
    "train_student": 138,
    "train_probe": 48,
    "evaluate": 138,
    "train_detector": 12,
    "evaluate_detector": 12,
    "compile": 1,
    "report": 1,
    "track": 1,
    "all": 1,
}
SMALL_JOBS = {
    "prepare": 2,
    "pretrain_meta": 1,
    "incubate_module": 4,
    "assemble_teacher": 1,
    "split_teacher": 4,
    "evaluate_teacher": 1,
    "measure_hybrid": 1,
    "distill_module": 3,
    "train_student": 7,
    "evaluate": 7,
    "compile": 1,
    "report": 1,
    "track": 1,
    "all": 1,
}


def planned(project, *arguments: str) -> dict[str, int]:
    """Jobs by rule in the table that a dry run prints; jobs of several runs count for the phase of these."""
    printed = project.run("snakemake", *arguments, "--cores", "1", "--dry-run", "--quiet", "rules")
    rows = re.findall(r"^(\w+) +(\d+)$", printed.stdout + printed.stderr, flags=re.MULTILINE)
    jobs: dict[str, int] = {}
    for rule, count in dict(rows).items():  # the table is printed before and after
        name = re.sub(r"_[0-9a-f]{16}$", "", rule)
        jobs[name] = jobs.get(name, 0) + int(count)
    jobs.pop("total", None)
    return jobs


@pytest.mark.parametrize(("scale", "jobs"), [("paper", PAPER_JOBS), ("small", SMALL_JOBS)])
def test_a_dry_run_from_the_root_plans_every_phase(project, scale, jobs):
    assert planned(project, "--config", f"scale={scale}") == jobs


def test_modules_share_jobs_where_the_scale_asks_for_it(project):
    jobs = planned(project, "--config", "scale=small", "overrides={modules_per_job: 3}")
    # Of four modules, taught or not, three share a job with all of their seeds; the fourth shares one with its own.
    assert jobs["distill_module"] == 6
    others = {rule: count for rule, count in jobs.items() if "distill" not in rule}
    assert others == {rule: count for rule, count in SMALL_JOBS.items() if "distill" not in rule}


def test_seeds_share_jobs_where_the_scale_asks_for_it(project):
    jobs = planned(project, "--config", "scale=small", "overrides={seeds: 5, seeds_per_job: 2}")
    # Five seeds in jobs of two are three jobs for each arm.
    assert jobs == SMALL_JOBS | {"distill_module": 3 * 3, "train_student": 3 * 7, "evaluate": 3 * 7}


def test_workflow_folder_plans_the_same(project):
    assert planned(project, "--snakefile", "workflow/Snakefile", "--config", "scale=small") == SMALL_JOBS


def test_each_experiment_and_phase_is_a_target(project):
    targets = project.run("snakemake", "--list").stdout.split()
    phases = {f"all_{rule}" for rule in PAPER_JOBS if rule not in ("fetch", "prepare", "compile", "report", "track", "all")}
    assert {"vmoe_base", "teacher_deit_large", "nac_tiny_imagenet_scale_free"} | phases <= set(targets)
    assert planned(project, "teacher_deit_large", "--config", "scale=small") == {
        "prepare": 1, "pretrain_meta": 1, "incubate_module": 4, "assemble_teacher": 1, "split_teacher": 4, "evaluate_teacher": 1,
        "teacher_deit_large": 1,
    }  # fmt: skip


def test_a_dry_run_is_short_and_lists_jobs_by_their_titles_where_commands_are_asked_for(project):
    short = project.run("snakemake", "--dry-run", "--config", "scale=paper")
    assert len(short.stdout + short.stderr) < 4000
    assert re.search(r"m2mkd plan: scale paper: 644 of 644 runs to compute, [\d,]+ GPU-hours on ", short.stderr)
    listed = project.run("snakemake", "--dry-run", "--printshellcmds", "--config", "scale=small").stdout
    assert re.search(
        r"^Job \d+: distil modules? .* of vmoe_base/m2mkd, seeds 20 to 27 \(distill_module/[0-9a-f]{16}\)$", listed, flags=re.M
    )
    assert max(map(len, re.findall(r"^Job \d+: .*$", listed, flags=re.M))) < 140


def test_a_phase_that_a_study_lacks_has_nothing_to_do(project):
    assert planned(project, "all_train_probe", "--config", "scale=small") == {}


def test_other_experiments_can_be_chosen(project):
    jobs = planned(project, "--config", "scale=small", "experiments=[vmoe_base/end_to_end]")
    assert jobs["train_student"] == jobs["evaluate"] == 1
    assert "distill_module" not in jobs


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("scale=smal", "no such scale 'smal'; did you mean 'small'?"),
        ("experiments=[vmoe_bas]", "no such experiment 'vmoe_bas'; did you mean 'vmoe_base'?"),
        ("experiments=[vmoe_base/e2e]", "no variant 'e2e'"),
        ("experiment=[vmoe_base]", "experiment is not a known field; did you mean 'experiments'?"),
        (
            "overrides={recipes: {distill_module: {epcohs: 3}}}",
            "recipes.distill_module.epcohs is not a known field; did you mean 'epochs'?",
        ),
        ("overrides={recipes: {distill_module: {batch_size: 31}}}", "batch_size 31 is odd"),
        ("overrides={recipes: {distil_module: {epochs: 3}}}", "has none of that name"),
        ("overrides={models: {vmoe_base: {heads: 7}}}", "width 48 is not a multiple of heads 7"),
        ("overrides={replicates: 4}", "replicates is not a known field; did you mean 'seeds'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(project, argument, message):
    done = project.run("snakemake", "--cores", "1", "--dry-run", "--config", argument, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("m2mkd: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "again"), [((), False), (("-s", "workflow/Snakefile"), False), (("--max-jobs-per-timespan", "9/1s"), True)]
)
def test_waiting_jobs_are_looked_at_again_when_one_ends_not_every_second(project, options, again):
    printed = project.snakemake("--verbose", "--until", "prepare", "--cores", "1", *options).stderr
    jobs, looks = printed.count("Finished jobid"), printed.count("Ready jobs: ")
    assert looks > jobs if again else looks == jobs > 1


TWICE = {
    "config/config.yaml": "scale: smoke\noverrides: {seeds: 2}\noverrides: {}\n",
    "more.yaml": "overrides: {seeds: 2}\noverrides: {}\n",
    "more.json": '{"overrides": {"seeds": 2}, "overrides": {}}',
}


@pytest.mark.parametrize("name", TWICE)
def test_a_key_that_stands_twice_is_refused_by_snakemake_too(project, name):
    (project.root / name).write_text(TWICE[name])
    given = [] if name.startswith("config/") else ["--configfile", name]
    done = project.run("snakemake", "--cores", "1", "--dry-run", *given, "--config", "scale=smoke", check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("m2mkd: ")]
    assert done.returncode and len(said) == 1 and "'overrides' occurs twice" in said[0] and name in said[0]
