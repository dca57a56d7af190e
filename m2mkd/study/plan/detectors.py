"""Runs of a detector: the student that its backbone starts from, itself, its evaluation."""

from collections.abc import Sequence

from m2mkd.config.detection import DetectorConfig
from m2mkd.config.detection_experiment import DetectionExperiment
from m2mkd.config.experiment import StudentExperiment
from m2mkd.config.models import VMoEConfig
from m2mkd.errors import InputError
from m2mkd.study.phases import EvaluateDetector, TrainDetector
from m2mkd.study.plan.draft import Draft
from m2mkd.study.plan.students import training_runs, with_seeds


def add_detector(draft: Draft, name: str, experiment: DetectionExperiment, variant: str) -> None:
    """Add all runs of one variant of a detector, and its row.

    In profile released no weight of a V-MoE is loaded, whatever the variant says; all variants are then the same runs.
    """
    how = experiment.variants[variant]
    detector, data = draft.detector(experiment.detector.of(draft.profile)), draft.data(experiment.data)
    recipe = draft.detection_recipe(experiment.recipe.of(draft.profile))
    seeds = draft.with_more(experiment.seeds, how.seeds)
    started = _starts(draft, experiment, variant, detector, seeds) if draft.switch("detection_init") == "student" else None
    trained = []
    for index, seed in enumerate(seeds):
        upstream = {} if started is None else {"student": [started[index]]}
        init = "scratch" if started is None else "student"
        trained.append(draft.run(TrainDetector, detector, upstream, model=detector, data=data, recipe=recipe, init=init, seed=seed))
    measured = [
        draft.run(EvaluateDetector, detector, {"detector": [run]}, model=detector, data=data, input=recipe.input, seed=seed)
        for run, seed in zip(trained, seeds, strict=True)
    ]
    draft.row(name, variant, trained, measured)


def _starts(
    draft: Draft, experiment: DetectionExperiment, variant: str, detector: DetectorConfig, seeds: Sequence[int]
) -> list[str] | None:
    """Ids of the runs whose weights the backbone of each seed starts from; none if it starts from random ones."""
    how, where = experiment.variants[variant], f"{draft.where}: variants.{variant}"
    if how.start is None and how.imported is None:
        return None
    student = draft.experiment(experiment.student)
    if not isinstance(student, StudentExperiment):
        raise InputError(f"{draft.where}: student '{experiment.student}' is a {student.kind} experiment; name one of kind student")
    network, data = draft.model(student.model, VMoEConfig), draft.data(student.data)
    if network != detector.backbone:
        raise InputError(
            f"{draft.where}: the backbone is not the network of student '{experiment.student}', {student.model}; name that one"
        )
    if data.image_size != detector.pretrain_size:
        wanted = f"pretrain_size is {detector.pretrain_size}, but student '{experiment.student}' has seen {data}"
        raise InputError(f"{draft.where}: {wanted}; set pretrain_size to {data.image_size}")
    if how.imported is not None:
        return [draft.imported(how.imported, f"{where}.imported", network, data)] * len(seeds)
    if how.start not in student.variants:
        raise InputError(f"{where}.start: student '{experiment.student}' has {', '.join(student.variants)}, not '{how.start}'")
    return [run for run, _ in with_seeds(draft, training_runs(draft, student, how.start, tuple(seeds)), tuple(seeds))]
