"""From experiments and a scale to the graph of runs."""

from m2mkd.config import load
from m2mkd.config.compat import Profile
from m2mkd.config.experiment import Settings, StudentExperiment, TeacherExperiment
from m2mkd.config.plan.transfers import Transfers
from m2mkd.config.study import Study
from m2mkd.errors import InputError


def build_study(settings: Settings) -> Study:
    """All runs that the settings ask for.

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
    study = Study(settings.scale, scale)
    builder = _Builder(study, scale, load.catalogue(scale))
    for selector in settings.experiments or scale.experiments:
        name, slash, variant = selector.partition("/")
        for profile in scale.profiles:
            builder.add(name, variant if slash else None, profile)
    return study


class _Builder(Transfers):
    """Plans every kind of experiment."""

    def add(self, name: str, variant: str | None, profile: Profile) -> None:
        self.user = name
        experiment = self.experiment(name)
        if variant is not None and not (isinstance(experiment, StudentExperiment) and variant in experiment.variants):
            known = ", ".join(experiment.variants) if isinstance(experiment, StudentExperiment) else "none"
            raise InputError(f"experiment {name}: no variant '{variant}'; it has {known}")
        if isinstance(experiment, TeacherExperiment):
            self.add_teacher(name, profile)
        elif isinstance(experiment, StudentExperiment):
            for chosen in [variant] if variant else experiment.variants:
                trained = self.students(experiment, chosen, profile)
                measured = tuple(self.evaluation(experiment, run, profile) for run in trained)
                self.row(name, chosen, profile, trained, measured)
        else:
            self.add_transfer(name, experiment, profile)
