"""Runs of an ablation: a student with one thing varied."""

from m2mkd.config import load
from m2mkd.config.compat import Profile
from m2mkd.config.experiment import AblationExperiment
from m2mkd.errors import InputError
from m2mkd.study.plan.students import Students


class Ablations(Students):
    """Plans ablations, and the students that they vary."""

    def add_setting(self, name: str, ablation: AblationExperiment, chosen: str, profile: Profile) -> None:
        """One setting of an ablation: its student, planned under its changes."""
        setting, where = ablation.settings[chosen], f"experiment {name}: settings.{chosen}"
        for switch, value in setting.compat.items():
            known = load.switches().get(switch)
            if known is None or value not in (known.released, known.corrected):
                fix = f"give {known.released} or {known.corrected}" if known else f"there are {', '.join(load.switches())}"
                raise InputError(f"{where}: compat: {switch} {value} is not in config/compat.yaml; {fix}")
        try:
            scale = load.changed(self.scale, setting.changes, "its changes") if setting.changes else self.scale
            catalogue = load.catalogue(scale) if setting.models or setting.recipes else self.catalogue
            builder = Ablations(self.study, scale, catalogue, setting.compat, name)
            experiment, variant = builder.student(ablation.student(chosen), "of")
            trained = builder.students(experiment, variant, profile)
            measured = tuple(builder.evaluation(experiment, run, profile) for run in trained)
        except InputError as error:  # which may name the file of the student, in which nothing is wrong
            raise InputError(f"{where}: {error}") from None
        for switch in setting.compat:
            if switch not in builder.switched:
                raise InputError(f"{where}: compat: {switch} changes nothing in {ablation.student(chosen)}; remove it")
        self.row(name, chosen, profile, trained, measured)
