"""Runs of an ablation: a student with one thing varied."""

from dataclasses import replace

from m2mkd.config import load
from m2mkd.config.experiment import AblationExperiment
from m2mkd.errors import InputError
from m2mkd.study.plan.draft import Draft
from m2mkd.study.plan.students import evaluation_runs, selected, training_runs


def add_setting(draft: Draft, name: str, ablation: AblationExperiment, chosen: str) -> None:
    """Add all runs of one setting of an ablation (those of its student with the setting's changes), and its row."""
    setting, where = ablation.settings[chosen], f"experiment {name}: settings.{chosen}"
    for switch, value in setting.compat.items():
        known = load.switches().get(switch)
        if known is None or value not in (known.released, known.corrected):
            fix = f"give {known.released} or {known.corrected}" if known else f"there are {', '.join(load.switches())}"
            raise InputError(f"{where}: compat: {switch} {value} is not in config/compat.yaml; {fix}")
    try:
        scale = load.changed(draft.scale, setting.changes, "its changes") if setting.changes else draft.scale
        catalogue = load.catalogue(scale) if setting.models or setting.recipes else draft.catalogue
        own = replace(draft, scale=scale, catalogue=catalogue, compat=setting.compat, switched=set(), experiments={}, user=name)
        experiment, variant = selected(own, ablation.student(chosen), "of")
        seeds = own.with_more(ablation.seeds, experiment.seeds, experiment.variants[variant].seeds)
        runs = training_runs(own, experiment, variant, seeds)
        measured = evaluation_runs(own, experiment, runs, seeds)
    except InputError as error:  # it may name the file of the student, which is correct
        raise InputError(f"{where}: {error}") from None
    for switch in setting.compat:
        if switch not in own.switched:
            raise InputError(f"{where}: compat: {switch} changes nothing in {ablation.student(chosen)}; remove it")
    draft.row(name, chosen, runs, measured)
