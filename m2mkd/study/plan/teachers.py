"""Runs of a teacher: pre-training, incubation, assembly, split."""

from m2mkd.config.compat import Profile
from m2mkd.config.experiment import TeacherExperiment
from m2mkd.config.models import ViTConfig
from m2mkd.errors import InputError
from m2mkd.study.phases import AssembleTeacher, Data, EvaluateTeacher, IncubateModule, MeasureHybrid, PretrainMeta, SplitTeacher
from m2mkd.study.plan.parts import Parts


class Teachers(Parts):
    """Plans teachers."""

    def teacher(self, name: str) -> tuple[TeacherExperiment, ViTConfig, ViTConfig]:
        """A teacher experiment with its architecture and that of its meta model."""
        experiment = self.experiment(name)
        if not isinstance(experiment, TeacherExperiment):
            raise InputError(f"experiment {self.user}: teacher '{name}' is a {experiment.kind} experiment; name one of kind teacher")
        model, meta = self.model(experiment.model, ViTConfig), self.model(experiment.meta, ViTConfig)
        if model.modules != meta.modules or model.width != meta.width:
            raise InputError(
                f"experiment {name}: teacher ({model.modules} stages of width {model.width}) and meta model "
                f"({meta.modules} of width {meta.width}) must have the same number of stages and the same width"
            )
        return experiment, model, meta

    def pretrained(self, name: str, profile: Profile) -> str:
        """Id of the run that pre-trains the meta model, or imports it."""
        experiment, _, meta = self.teacher(name)
        data = self.data(experiment.data)
        if experiment.imports.meta is not None:
            return self.imported(experiment.imports.meta, f"experiment {name}: imports.meta", profile, meta, data)
        recipe = self.recipe(experiment.pretrain)
        return self.run(PretrainMeta, profile, meta, {}, model=meta, data=data, recipe=recipe)

    def assembled(self, name: str, profile: Profile) -> str:
        """Id of the run that assembles the teacher from its incubated modules, or imports it."""
        experiment, model, meta = self.teacher(name)
        data = self.data(experiment.data)
        if experiment.imports.teacher is not None:
            return self.imported(experiment.imports.teacher, f"experiment {name}: imports.teacher", profile, model, data)
        recipe, upstream = self.recipe(experiment.incubate), {"meta": (self.pretrained(name, profile),)}
        incubated = tuple(
            self.run(IncubateModule, profile, model, upstream, meta=meta, model=model, index=index, data=data, recipe=recipe)
            for index in range(model.modules)
        )
        recipe = self.recipe(experiment.assemble)
        return self.run(AssembleTeacher, profile, model, {"modules": incubated}, model=model, data=data, recipe=recipe)

    def split(self, name: str, index: int, profile: Profile) -> str:
        """Id of the run that cuts one module out of the teacher."""
        _, model, _ = self.teacher(name)
        return self.run(SplitTeacher, profile, model, {"teacher": (self.assembled(name, profile),)}, model=model, index=index)

    def hybrids(self, name: str, data: Data, profile: Profile) -> str:
        """Id of the run that measures the meta model with each of the teacher's modules in its place."""
        _, model, meta = self.teacher(name)
        upstream = {"meta": (self.pretrained(name, profile),), "teacher": (self.assembled(name, profile),)}
        return self.run(MeasureHybrid, profile, model, upstream, meta=meta, model=model, data=data)

    def add_teacher(self, name: str, profile: Profile) -> None:
        experiment, model, _ = self.teacher(name)
        assembled = self.assembled(name, profile)
        for index in range(model.modules):
            self.split(name, index, profile)
        batch = self.recipe(experiment.assemble).batch_size if profile == "released" and not experiment.imports.teacher else None
        data = self.data(experiment.data)
        measured = self.run(EvaluateTeacher, profile, model, {"teacher": (assembled,)}, model=model, data=data, batch_size=batch)
        self.row(name, "teacher", profile, [assembled], [measured])
