"""Finding runs by their ids, which may be shortened: in the plan, or in a new plan if they are not in it."""

from collections.abc import Sequence

from m2mkd.config.experiment import Settings
from m2mkd.errors import InputError
from m2mkd.study.files import PlannedRun, find_planned, planned_runs, read_planned, write_plan
from m2mkd.study.plan import build_study
from m2mkd.study.study import Study


def find_runs(run_ids: Sequence[str], settings: Settings) -> list[PlannedRun]:
    """Planned runs of those ids; if the plan lacks one, the study is planned now.

    Parameters
    ----------
    run_ids
        Each written ``phase/key``; the key may be shortened.
    settings
        Scale whose plan is searched, and settings to plan with if a run is not in it.

    Raises
    ------
    InputError
        If an id fits no run, or more than one.
    """
    found = [find_planned(run_id, settings.scale) for run_id in run_ids]
    if all(found):
        for run_id, paths in zip(run_ids, found, strict=True):
            if len(paths) > 1:
                raise InputError(f"{run_id}: fits {len(paths)} planned runs of scale {settings.scale}; give more of its key")
        return [read_planned(paths[0]) for paths in found]
    study = _study_with(run_ids, settings)
    planned = planned_runs(study)
    write_plan(study)
    return [planned[study.find(run_id).id] for run_id in run_ids]


def _study_with(run_ids: Sequence[str], settings: Settings) -> Study:
    """Study; with everything else at its scale only if one of the runs is not its own, because that takes time to plan."""
    study = build_study(settings)
    own = all(any(name.startswith(run_id) for name in study.runs) for run_id in run_ids)
    return study if own else build_study(settings, ablations=True, detection=True)
