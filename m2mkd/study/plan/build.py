"""From experiments and a scale to the graph of runs."""

from m2mkd.config import load
from m2mkd.config.detection_experiment import DetectionExperiment
from m2mkd.config.experiment import AblationExperiment, Experiment, Settings, StudentExperiment, TeacherExperiment
from m2mkd.errors import InputError
from m2mkd.study.plan.ablations import add_setting
from m2mkd.study.plan.detectors import add_detector
from m2mkd.study.plan.draft import Draft
from m2mkd.study.plan.students import add_student
from m2mkd.study.plan.teachers import add_teacher
from m2mkd.study.plan.transfers import add_transfer
from m2mkd.study.study import Study


def build_study(settings: Settings, *, ablations: bool = False, detection: bool = False) -> Study:
    """All runs that the settings ask for.

    Parameters
    ----------
    settings
        Scale, experiments and overrides.
    ablations
        Add the ablations of the scale.
    detection
        The scale's detectors in addition to its study: alone, or together with the ablations.

    Raises
    ------
    InputError
        For an unknown name, or parts that do not fit together.
    """
    scale = load.scale(settings.scale, settings.overrides)
    file = load.scale(settings.scale, {}) if settings.overrides else scale
    overrides = load.scale_differences(file, scale) if settings.overrides else {}
    study = Study(settings.scale, scale, ablations, detection, overrides, settings.experiments)
    catalogue, full_size = load.catalogue(scale), load.full_size(file, scale)
    selectors = [] if detection and not ablations else [*(settings.experiments or scale.experiments)]
    selectors += load.ablations(settings.scale, scale) if ablations else []
    selectors += load.detections(settings.scale, scale) if detection else []
    for selector in selectors:
        name, slash, variant = selector.partition("/")
        for profile in scale.profiles:
            draft = Draft(study, scale, profile, name, catalogue, study.experiments, full_size)
            _add(draft, name, variant if slash else None)
    return study


def _variants(experiment: Experiment) -> list[str]:
    """Variants or settings that can be chosen one by one; for a teacher, its only row."""
    if isinstance(experiment, TeacherExperiment):
        return ["teacher"]
    if isinstance(experiment, StudentExperiment | DetectionExperiment):
        return list(experiment.variants)
    return list(experiment.settings) if isinstance(experiment, AblationExperiment) else []


def _add(draft: Draft, name: str, variant: str | None) -> None:
    """Add one experiment, or one variant of it."""
    experiment = draft.experiment(name)
    known = _variants(experiment)
    if variant is not None and variant not in known:
        raise InputError(f"experiment {name}: no variant '{variant}'; it has {', '.join(known) or 'none'}")
    chosen = [variant] if variant else known
    if isinstance(experiment, TeacherExperiment):
        add_teacher(draft, name)
    elif isinstance(experiment, StudentExperiment):
        for one in chosen:
            add_student(draft, name, experiment, one)
    elif isinstance(experiment, AblationExperiment):
        for one in chosen:
            add_setting(draft, name, experiment, one)
    elif isinstance(experiment, DetectionExperiment):
        for one in chosen:
            add_detector(draft, name, experiment, one)
    else:
        add_transfer(draft, name, experiment)
