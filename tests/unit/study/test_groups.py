"""Runs that one job computes together: only unfinished ones, only of one student, and no key knows of it."""

from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.study.graph import as_graph
from m2mkd.study.groups import in_lock_step, job_groups
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from tests.conftest import ROOT
from tests.tiny import of_phase, smoke


@pytest.fixture(autouse=True)
def _nothing_done(tmp_path, monkeypatch):
    """A project without results."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)


def mark_done(study: Study, run: Run) -> None:
    for output in map(Path, study.outputs(run)):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()


def shape(study: Study, phase: str) -> list[list[tuple[int, int | None]]]:
    """Seeds and modules of each group of a phase."""
    groups = [group for group in job_groups(study) if group[0].phase == phase]
    return [[(run.seed, getattr(run.config, "index", None)) for run in group] for group in groups]


def test_without_a_wish_every_run_has_a_job_of_its_own():
    assert job_groups(smoke(seeds=3)) == []


def test_modules_are_grouped_by_student_in_ascending_order():
    study = smoke(modules_per_job=3)
    assert shape(study, "distill_module") == 2 * [[(0, 0), (0, 1), (0, 2)]]
    for group in job_groups(study):
        assert len({run.config.student.family for run in group}) == 1
    assert shape(smoke(modules_per_job=99), "distill_module") == 2 * [[(0, index) for index in range(4)]]


def test_seeds_are_grouped_by_student():
    study = smoke("vmoe_base", seeds=5, seeds_per_job=2)
    assert shape(study, "evaluate") == len(study.rows) * [[(0, None), (1, None)], [(2, None), (3, None)]]
    for group in job_groups(study):
        alike = {repr(run.config.model_dump(exclude={"seed"})) for run in group}
        assert len(alike) == 1


def test_seeds_and_modules_are_grouped_together():
    study = smoke("vmoe_base/m2mkd", seeds=3, seeds_per_job=2, modules_per_job=4)
    both = [(seed, index) for seed in (0, 1) for index in range(4)]
    assert shape(study, "distill_module") == [both, [(2, index) for index in range(4)]]


def test_teachers_are_not_grouped_and_neither_are_profiles():
    study = smoke(seeds=2, seeds_per_job=2, modules_per_job=4, profiles=["released", "corrected"])
    groups = job_groups(study)
    assert all(run.seed is not None for group in groups for run in group)
    distilled = [group for group in groups if group[0].phase == "distill_module"]
    assert len(distilled) == 2 * 2  # students and profiles
    assert all(len({repr(run.config.compat) for run in group}) == 1 for group in groups)


def test_no_key_and_no_input_depends_on_groups():
    one, many = smoke(seeds=3), smoke(seeds=3, seeds_per_job=3, modules_per_job=3)
    assert as_graph(one, one)["runs"] == as_graph(many, many)["runs"]
    groups = as_graph(many, many)["groups"]
    assert groups and all(members[0].endswith(f"/{first}") for first, members in groups.items())


def test_a_finished_module_leaves_its_group_and_what_is_left_alone_has_none():
    study = smoke("vmoe_base/m2mkd", modules_per_job=2)
    assert shape(study, "distill_module") == [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    mark_done(study, job_groups(study)[0][1])
    assert shape(study, "distill_module") == [[(0, 0), (0, 2)]]


def test_finished_seeds_are_not_asked_for_again():
    three = smoke("vmoe_base/end_to_end", seeds=3, seeds_per_job=3)
    for run in three.runs.values():
        mark_done(three, run)
    five = smoke("vmoe_base/end_to_end", seeds=5, seeds_per_job=3)
    assert shape(five, "train_student") == [[(3, None), (4, None)]]


def test_a_job_trains_the_modules_of_one_seed_in_lock_step():
    study = smoke("vmoe_base/m2mkd", seeds=2)
    runs = sorted(of_phase(study, "distill_module"), key=lambda run: run.config.index)
    parts = in_lock_step(runs)
    assert [[(run.seed, run.config.index) for run in part] for part in parts] == [
        [(seed, index) for index in range(4)] for seed in (runs[0].seed, runs[1].seed)
    ]
    evaluations = of_phase(study, "evaluate")
    assert in_lock_step(evaluations) == [[run] for run in evaluations]


def test_evaluations_of_several_variants_are_computed_one_after_the_other():
    """They differ in what was trained, not in how it is measured; where jobs are grouped, each variant has its own."""
    study = smoke("vmoe_base/end_to_end", "vmoe_base/m2mkd", seeds=2, seeds_per_job=2)
    evaluations = of_phase(study, "evaluate")
    assert len({study.runs[run.upstream["student"][0]].config.init for run in evaluations}) == 2
    assert in_lock_step(evaluations) == [[run] for run in evaluations]
    assert [len(group) for group in job_groups(study) if group[0].phase == "evaluate"] == [2, 2]


def test_runs_that_differ_in_more_than_seed_and_module_are_refused():
    study = smoke("vmoe_base", "nac_tiny_imagenet_scale_free", seeds=2)
    modules, evaluations, students = (of_phase(study, phase) for phase in ("distill_module", "evaluate", "train_student"))
    of_other = next(run for run in modules if run.config.student != modules[0].config.student)
    otherwise_trained = next(run for run in students if run.config.init != students[0].config.init)
    for runs in ([modules[0], of_other], [modules[0], modules[0]], [students[0], otherwise_trained], [modules[0], evaluations[0]]):
        with pytest.raises(InputError, match="differ in more than the seed or module of one student; compute each with its own command"):
            in_lock_step(runs)


def test_modules_of_different_meta_models_are_refused():
    study, other = smoke("vmoe_base/m2mkd"), smoke("vmoe_base/m2mkd", recipes={"pretrain_meta": {"epochs": 5}})
    first, second = of_phase(study, "distill_module")[0], of_phase(other, "distill_module")[1]
    assert first.config.model_dump(exclude={"index"}) == second.config.model_dump(exclude={"index"})
    with pytest.raises(InputError, match="differ in more than the seed or module of one student"):
        in_lock_step([first, second])
