"""Titles of runs and jobs for people, such as "distil module 2 of vmoe_base/m2mkd, seed 3"."""

from collections.abc import Iterable, Mapping, Sequence

from m2mkd.study.groups import index_of
from m2mkd.study.run import RowName, Run
from m2mkd.study.study import Study

PHASE_VERBS = {
    "import_weights": "import weights for",
    "pretrain_meta": "pre-train the meta model of",
    "incubate_module": "incubate",
    "assemble_teacher": "fine-tune",
    "split_teacher": "cut out",
    "evaluate_teacher": "evaluate",
    "measure_hybrid": "measure the hybrids of",
    "distill_module": "distil",
    "train_student": "train",
    "train_probe": "train a probe on",
    "evaluate": "evaluate",
    "train_detector": "train the detector",
    "evaluate_detector": "evaluate the detector",
}
"""Verb by phase; any other phase is called by its name."""


def job_titles(study: Study, rows: Mapping[str, RowName], groups: Iterable[Sequence[Run]] = ()) -> dict[str, str]:
    """Titles of all jobs of a study: by run id, and of jobs of several runs by the key of the first.

    Parameters
    ----------
    study
        The graph of runs.
    rows
        Row of the tables that each run is shown under, by run id (`m2mkd.study.lineage.display_rows`).
    groups
        Runs that one job computes together.
    """
    profiles = len(study.scale.profiles) > 1
    titles = {run.id: job_title([run], rows[run.id], profile=profiles) for run in study.runs.values()}
    return titles | {members[0].key: job_title(members, rows[members[0].id], profile=profiles) for members in groups}


def job_title(runs: Sequence[Run], row: RowName, *, profile: bool) -> str:
    """Title of a job.

    Parameters
    ----------
    runs
        Its runs, of one phase.
    row
        Row of the tables that they are shown under.
    profile
        Whether to name the compat profile.
    """
    phase = runs[0].phase
    verb = PHASE_VERBS.get(phase, phase.replace("_", " "))
    modules = sorted({index_of(run) for run in runs if getattr(run.config, "index", None) is not None})
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    what = row.experiment if runs[0].config.of_teacher else f"{row.experiment}/{row.variant}"
    part = f"{_counted('module', modules)} of " if modules else ""
    ending = f", {_counted('seed', seeds)}" if seeds else ""
    return f"{verb} {part}{what}{ending}{f' ({row.profile})' if profile else ''}"


def _counted(name: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{name} {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{name}s {numbers[0]} to {numbers[-1]}"
    return f"{name}s {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
