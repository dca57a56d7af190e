"""Sums of costs: by phase, by variant, by experiment, and of a whole study."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from m2mkd.config.compat import Profile
from m2mkd.config.experiment import Settings
from m2mkd.config.merge import merged
from m2mkd.planning.cost import Assumptions, Cost, cost_of, data_sizes
from m2mkd.planning.gpus import gpu_named
from m2mkd.study.phase import PHASES
from m2mkd.study.plan import build_study
from m2mkd.study.run import Run
from m2mkd.study.study import Study


def gpu_hours(costs: Mapping[str, Cost], ids: Iterable[str]) -> float:
    """GPU-hours of the given runs, each counted once."""
    return sum(costs[id_].gpu_hours for id_ in sorted(set(ids)))


def compute_in_words(study: Study, pending: Collection[str], given: Assumptions) -> str:
    """Runs of a study that are still to be computed, with their GPU-hours, in one line.

    Parameters
    ----------
    study
        The graph of runs.
    pending
        Ids of those that are to be computed.
    given
        GPU, MFU and the like.

    Raises
    ------
    InputError
        If the registry does not say how many images a data set has.
    """
    hours = gpu_hours(cost_of(study, given), pending)
    shown = "less than 0.1" if 0 < hours < 0.1 else f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"
    machine = f"{gpu_named(given.gpu).title} at {100 * given.mfu:.0f} % of its peak"
    return f"scale {study.scale_name}: {len(pending):,} of {len(study.runs):,} runs to compute, {shown} GPU-hours on {machine}"


def by_phase(study: Study, costs: Mapping[str, Cost]) -> dict[str, dict[str, Any]]:
    """Runs and GPU-hours of each phase of a study, in the order of the flow."""
    phases: dict[str, dict[str, Any]] = {}
    for phase in PHASES:
        runs = [run.id for run in study.runs.values() if run.phase == phase]
        if runs:
            training = sum(costs[id_].training_hours for id_ in runs)
            memory = max(costs[id_].memory.total for id_ in runs)
            phases[phase] = {"runs": len(runs), "training_hours": training, "gpu_hours": gpu_hours(costs, runs), "peak_memory": memory}
    return phases


def by_variant(study: Study, costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """GPU-hours of each table row: of its training, of its own phases with measuring, and of the teacher that it shares."""
    rows = []
    for row in study.rows:
        needed = study.with_upstream((*row.trained, *row.measured))
        teacher = {id_ for id_ in needed if study.runs[id_].config.of_teacher}
        own = needed - teacher or needed
        rows.append(
            {
                "experiment": row.experiment,
                "variant": row.variant,
                "profile": row.profile,
                "training_hours": sum(costs[id_].training_hours for id_ in sorted(own)),
                "gpu_hours": gpu_hours(costs, own),
                "teacher_hours": gpu_hours(costs, teacher - own),
            }
        )
    return rows


def by_experiment(study: Study, costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """GPU-hours of each experiment: of all runs that it needs, and of those that no earlier experiment needs."""
    names = dict.fromkeys(row.experiment for row in study.rows)
    seen: set[str] = set()
    rows = []
    for name in names:
        ids = {run.id for run in study.runs.values() if name in run.users}
        rows.append(
            {
                "experiment": name,
                "runs": len(ids),
                "gpu_hours": gpu_hours(costs, ids),
                "added_hours": gpu_hours(costs, ids - seen),
                "peak_memory": max(costs[id_].memory.total for id_ in ids),
                "weights": sum(costs[id_].weights for id_ in ids),
            }
        )
        seen |= ids
    return rows


def one_seed(settings: Settings, profile: Profile) -> Study:
    """Study in one compat profile with a single seed."""
    change = {"profiles": [profile], "seeds": 1, "seeds_per_job": 1}
    return build_study(settings.model_copy(update={"overrides": merged(settings.overrides, change)}))


def plan(settings: Settings, given: Assumptions) -> dict[str, Any]:
    """Output of ``m2mkd plan`` as plain values: bytes, FLOPs and GPU-hours.

    Returns
    -------
    dict
        ``assumptions``; ``study`` (runs and GPU-hours of all profiles and seeds, shared runs once); ``profiles``: for each compat
        profile with one seed ``phases``, ``variants``, ``experiments``, ``runs``, ``gpu_hours``; ``data`` (bytes of packed sets).
    """
    study = build_study(settings)
    costs = cost_of(study, given)
    profiles = {}
    for profile in study.scale.profiles:
        single = one_seed(settings, profile)
        single_costs = cost_of(single, given)
        profiles[profile] = {
            "gpu_hours": gpu_hours(single_costs, single.runs),
            "phases": by_phase(single, single_costs),
            "variants": by_variant(single, single_costs),
            "experiments": by_experiment(single, single_costs),
            "runs": [_run(run, single_costs[run.id]) for phase in PHASES for run in single.runs.values() if run.phase == phase],
        }
    gpu = gpu_named(given.gpu)
    return {
        "scale": settings.scale,
        "assumptions": asdict(given) | {"peak": asdict(gpu)},
        "study": {
            "runs": len(study.runs),
            "profiles": list(study.scale.profiles),
            "seeds": len(study.seeds),
            "gpu_hours": gpu_hours(costs, costs),
            "weights": sum(cost.weights for cost in costs.values()),
            "largest_checkpoint": max(cost.checkpoint for cost in costs.values()),
        },
        "profiles": profiles,
        "data": data_sizes(study),
    }


def _run(run: Run, cost: Cost) -> dict[str, Any]:
    sums = {"flops_per_image": cost.flops_per_image, "gpu_hours": cost.gpu_hours, "hours": cost.hours, "peak_memory": cost.memory.total}
    return {"id": run.id, "phase": run.phase, "what": run.what, "experiments": sorted(run.users)} | asdict(cost) | sums
