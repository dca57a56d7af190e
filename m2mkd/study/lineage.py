"""Which rows of the tables a run serves, and under which of them it is shown."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from m2mkd.config import load
from m2mkd.config.compat import Profile
from m2mkd.config.experiment import AblationExperiment, StudentExperiment, TeacherExperiment, TransferExperiment
from m2mkd.errors import InputError
from m2mkd.study.study import Row, Run, Study

TEACHER_PHASES = ("pretrain_meta", "incubate_module", "assemble_teacher", "split_teacher", "evaluate_teacher", "measure_hybrid")


class Place(NamedTuple):
    """A row of the tables by name."""

    experiment: str
    variant: str
    profile: Profile

    def __str__(self) -> str:
        return f"{self.experiment}/{self.variant} ({self.profile})"


def place_of(row: Row) -> Place:
    """The name of a row."""
    return Place(row.experiment, row.variant, row.profile)


class Named(Protocol):
    """Whatever belongs to one row of the tables."""

    @property
    def experiment(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def profile(self) -> Profile: ...


def anchor_of(row: Named) -> str:
    """Id, in the report, of the runs behind a row."""
    return f"runs-{row.experiment}-{row.variant.replace('/', '-')}-{row.profile}"


def served_rows(study: Study) -> dict[str, tuple[Row, ...]]:
    """Rows that need each run, by run id, in the study's order."""
    served: dict[str, list[Row]] = {run_id: [] for run_id in study.runs}
    for row in study.rows:
        for run_id in _needed(study, row.trained + row.measured):
            served[run_id].append(row)
    for run in study.runs.values():
        if not served[run.id]:  # a stage of a teacher that no student of the study is taught by
            upstream = {run_id for ids in run.upstream.values() for run_id in ids}
            served[run.id] = [row for row in study.rows if upstream & set(row.trained)]
        if not served[run.id]:  # a measurement of a teacher, or a module of it that no variant loads, where the teacher is no row
            served[run.id] = list(dict.fromkeys(row for run_id in run.upstream.get("teacher", ()) for row in served[run_id]))
    return {run_id: tuple(rows) for run_id, rows in (served or served_rows(study)).items()}


def _needed(study: Study, run_ids: tuple[str, ...]) -> set[str]:
    """Those runs and all that they build on."""
    found: set[str] = set()
    waiting = list(run_ids)
    while waiting:
        run_id = waiting.pop()
        if run_id not in found:
            found.add(run_id)
            waiting += [parent for ids in study.runs[run_id].upstream.values() for parent in ids]
    return found


def student_of(study: Study, experiment: str, variant: str) -> tuple[str, str]:
    """The student experiment and variant that a row is about; a row of a transfer experiment names them in its variant."""
    if not isinstance(load.experiment(experiment, study.scale), TransferExperiment):
        return experiment, variant
    source, _, chosen = variant.partition("/")
    return source, chosen


def ablations_of(study: Study) -> dict[str, AblationExperiment]:
    """The ablations that have rows in a study, by name."""
    named = ((name, load.experiment(name, study.scale)) for name in dict.fromkeys(row.experiment for row in study.rows))
    return {name: experiment for name, experiment in named if isinstance(experiment, AblationExperiment)}


def teacher_of(study: Study, row: Row) -> str:
    """Name of the teacher experiment that a row builds on."""
    experiment = load.experiment(row.experiment, study.scale)
    if isinstance(experiment, TeacherExperiment):
        return row.experiment
    if isinstance(experiment, AblationExperiment):
        source = experiment.student(row.variant).partition("/")[0]
    else:
        source, _ = student_of(study, row.experiment, row.variant)
    student = load.experiment(source, study.scale)
    assert isinstance(student, StudentExperiment)
    return student.teacher


def display_rows(study: Study, served: Mapping[str, tuple[Row, ...]] | None = None) -> dict[str, Place]:
    """Where each run is shown, by run id: a teacher's under its experiment, any other under the first row that needs it.

    Parameters
    ----------
    study
        The graph of runs.
    served
        What `served_rows` says of it, where that is known already.

    Raises
    ------
    InputError
        If an experiment's file is gone.
    """
    return {run_id: _home(study, study.runs[run_id], rows[0]) for run_id, rows in (served or served_rows(study)).items()}


def _home(study: Study, run: Run, row: Row) -> Place:
    if run.phase in TEACHER_PHASES or (run.phase == "import_weights" and run.config.model.family == "vit"):  # type: ignore[attr-defined]
        return Place(teacher_of(study, row), "teacher", row.profile)
    return place_of(row)


def title_of(study: Study, experiment: str) -> str:
    """What an experiment reproduces, in its own words; its name where the file is gone."""
    try:
        return load.experiment(experiment, study.scale).title
    except InputError:
        return experiment
