"""Runs of a transfer: students of other experiments on other data."""

from m2mkd.config.experiment import StudentExperiment, TransferExperiment
from m2mkd.errors import InputError
from m2mkd.study.phases import ImportWeights, TrainProbe, TrainStudent
from m2mkd.study.plan.draft import Draft
from m2mkd.study.plan.students import evaluation_runs, selected, training_runs, with_seeds


def add_transfer(draft: Draft, name: str, transfer: TransferExperiment) -> None:
    """Add all runs of a transfer, and a row for each of its students."""
    for selector in transfer.students:
        experiment, variant = selected(draft, selector, f"experiment {name}: students")
        seeds = draft.with_more(transfer.seeds, experiment.seeds, experiment.variants[variant].seeds)
        runs = training_runs(draft, experiment, variant, seeds)
        if transfer.probe is None:
            measured = evaluation_runs(draft, experiment, runs, seeds)
        else:
            measured = tuple(_probed(draft, transfer, experiment, run, seed) for run, seed in with_seeds(draft, runs, seeds))
        draft.row(name, selector, runs, measured)


def _probed(draft: Draft, transfer: TransferExperiment, experiment: StudentExperiment, run: str, seed: int) -> str:
    config, probe, student = draft.study.runs[run].config, transfer.probe, draft.catalogue.models[experiment.model]
    assert isinstance(config, TrainStudent | ImportWeights) and probe is not None
    recipe = draft.recipe(probe.recipe)
    if probe.way * probe.shots % 2 and (recipe.augmentation.mixup or recipe.augmentation.cutmix):
        odd = f"way {probe.way} x shots {probe.shots} is odd; the episode is one batch, and mixup needs an even one"
        off = f"set mixup and cutmix of recipes.{probe.recipe}.augmentation to 0"
        raise InputError(f"{draft.where}: probe: {odd}; change either, or {off}")
    return draft.run(
        TrainProbe,
        student,
        {"student": [run]},
        published_data=probe.data,
        seed=seed,
        student=student,
        prior=experiment.prior,
        student_data=draft.data(experiment.data),
        stitch_width=config.stitch_width,
        data=draft.data(probe.data),
        way=probe.way,
        shots=probe.shots,
        episodes=probe.episodes,
        recipe=recipe,
    )
