"""From experiments and a scale to the graph of runs."""

from m2mkd.config import load
from m2mkd.config.compat import Profile
from m2mkd.config.experiment import AblationExperiment, Experiment, Settings, StudentExperiment, TeacherExperiment
from m2mkd.errors import InputError
from m2mkd.study.plan.transfers import Transfers
from m2mkd.study.study import Study


def build_study(settings: Settings, *, ablations: bool = False) -> Study:
    """All runs that the settings ask for.

    Parameters
    ----------
    settings
        Scale, experiments and overrides.
    ablations
        Add the ablations of the scale.

    Raises
    ------
    InputError
        For an unknown name, or parts that do not fit together.
    """
    scale = load.scale(settings.scale, settings.overrides)
    if scale.replicates % scale.replicates_per_job:
        raise InputError(
            f"scale {settings.scale}: replicates {scale.replicates} is not a multiple of "
            f"replicates_per_job {scale.replicates_per_job}; change either"
        )
    study = Study(settings.scale, scale, ablations)
    builder = _Builder(study, scale, load.catalogue(scale))
    more = load.ablations(settings.scale, scale) if ablations else []
    for selector in [*(settings.experiments or scale.experiments), *more]:
        name, slash, variant = selector.partition("/")
        for profile in scale.profiles:
            builder.add(name, variant if slash else None, profile)
    return study


def _variants(experiment: Experiment) -> list[str]:
    """Variants, or settings, that can be chosen one by one; of a teacher its only row."""
    if isinstance(experiment, TeacherExperiment):
        return ["teacher"]
    if isinstance(experiment, StudentExperiment):
        return list(experiment.variants)
    return list(experiment.settings) if isinstance(experiment, AblationExperiment) else []


class _Builder(Transfers):
    """Plans every kind of experiment."""

    def add(self, name: str, variant: str | None, profile: Profile) -> None:
        self.user = name
        experiment = self.experiment(name)
        known = _variants(experiment)
        if variant is not None and variant not in known:
            raise InputError(f"experiment {name}: no variant '{variant}'; it has {', '.join(known) or 'none'}")
        if isinstance(experiment, TeacherExperiment):
            self.add_teacher(name, profile)
        elif isinstance(experiment, StudentExperiment):
            for chosen in [variant] if variant else experiment.variants:
                trained = self.students(experiment, chosen, profile)
                measured = tuple(self.evaluation(experiment, run, profile) for run in trained)
                self.row(name, chosen, profile, trained, measured)
        elif isinstance(experiment, AblationExperiment):
            for chosen in [variant] if variant else experiment.settings:
                self.add_setting(name, experiment, chosen, profile)
        else:
            self.add_transfer(name, experiment, profile)
