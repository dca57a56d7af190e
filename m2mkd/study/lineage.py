"""Rows of the tables that a run serves, and the row under which it is shown."""

from collections.abc import Mapping
from functools import cache
from typing import Protocol

from m2mkd.config.compat import Profile
from m2mkd.config.detection_experiment import DetectionExperiment
from m2mkd.config.experiment import AblationExperiment, StudentExperiment, TeacherExperiment, TransferExperiment
from m2mkd.study.run import Row, RowName, Run
from m2mkd.study.study import Study


class NamedRow(Protocol):
    """Anything that belongs to one row of the tables."""

    @property
    def experiment(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def profile(self) -> Profile: ...


def anchor_of(row: NamedRow) -> str:
    """Id, in the report, of the runs behind a row."""
    return f"runs-{row.experiment}-{row.variant.replace('/', '-')}-{row.profile}"


def served_rows(study: Study) -> dict[str, tuple[Row, ...]]:
    """Rows that need each run, by run id, in the study's order."""
    served: dict[str, list[Row]] = {run_id: [] for run_id in study.runs}
    for row in study.rows:
        for run_id in study.with_upstream(row.trained + row.measured):
            served[run_id].append(row)
    for run in study.runs.values():
        if not served[run.id]:  # a stage of a teacher that teaches no student of the study
            served[run.id] = [row for row in study.rows if set(run.parents) & set(row.trained)]
        if not served[run.id]:  # a measurement or an unused module of a teacher that is not a row itself
            served[run.id] = list(dict.fromkeys(row for run_id in run.upstream.get("teacher", ()) for row in served[run_id]))
    return {run_id: tuple(rows) for run_id, rows in served.items()}


def student_of(study: Study, experiment: str, variant: str) -> tuple[str, str]:
    """Student experiment and variant of a row; a row of a transfer experiment names them in its variant."""
    if not isinstance(study.experiments[experiment], TransferExperiment):
        return experiment, variant
    source, _, chosen = variant.partition("/")
    return source, chosen


def ablations_of(study: Study) -> dict[str, AblationExperiment]:
    """The ablations that have rows in a study, by name."""
    named = ((name, study.experiments[name]) for name in dict.fromkeys(row.experiment for row in study.rows))
    return {name: experiment for name, experiment in named if isinstance(experiment, AblationExperiment)}


def teacher_of(study: Study, row: Row) -> str:
    """Name of the teacher experiment that a row builds on."""
    experiment = study.experiments[row.experiment]
    if isinstance(experiment, TeacherExperiment):
        return row.experiment
    if isinstance(experiment, AblationExperiment):
        source = experiment.student(row.variant).partition("/")[0]
    elif isinstance(experiment, DetectionExperiment):
        source = experiment.student
    else:
        source, _ = student_of(study, row.experiment, row.variant)
    student = study.experiments[source]
    assert isinstance(student, StudentExperiment)
    return student.teacher


def display_rows(study: Study, served: Mapping[str, tuple[Row, ...]] | None = None) -> dict[str, RowName]:
    """Row under which each run is shown, by run id: a teacher's under its experiment, any other under the first row that needs it.

    Parameters
    ----------
    study
        The graph of runs.
    served
        Result of `served_rows` for it, if known already.
    """
    teacher = cache(lambda row: teacher_of(study, row))

    def shown(run: Run, row: Row) -> RowName:
        return RowName(teacher(row), "teacher", row.profile) if run.config.of_teacher else row.name

    return {run_id: shown(study.runs[run_id], rows[0]) for run_id, rows in (served or served_rows(study)).items()}


def title_of(study: Study, experiment: str) -> str:
    """Title of an experiment: what it reproduces."""
    return study.experiments[experiment].title
