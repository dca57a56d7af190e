"""Titles of jobs, by which people know them."""

import pytest

from m2mkd.study.lineage import display_rows
from m2mkd.study.phase import PHASES
from m2mkd.study.titles import PHASE_VERBS, job_title, job_titles
from tests.fabricated import plan


@pytest.fixture(scope="module")
def titled(tmp_path_factory):
    """Study of scale smoke, and titles of its runs."""
    study = plan(tmp_path_factory.mktemp("titles"), "smoke")
    return study, job_titles(study, display_rows(study))


def test_every_phase_has_a_verb():
    assert PHASE_VERBS.keys() == PHASES.keys()


def test_every_run_of_a_study_has_a_title_of_its_own(titled):
    study, titles = titled
    assert titles.keys() == study.runs.keys()
    assert len(set(titles.values())) == len(titles)
    assert {"distil module 2 of vmoe_base/m2mkd, seed 0", "fine-tune teacher_deit_large"} <= set(titles.values())


def test_a_job_of_several_runs_names_all_of_them(titled):
    study, _ = titled
    rows = display_rows(study)
    modules = [run for run in study.runs.values() if run.phase == "distill_module" and "vmoe" in run.what]
    assert job_title(modules[:3], rows[modules[0].id], profile=True) == "distil modules 0 to 2 of vmoe_base/m2mkd, seed 0 (corrected)"
    apart = [modules[0], modules[1], modules[3]]
    assert job_title(apart, rows[modules[0].id], profile=False) == "distil modules 0, 1 and 3 of vmoe_base/m2mkd, seed 0"
