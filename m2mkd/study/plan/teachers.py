"""Runs of a teacher: pre-training, incubation, assembly, split."""

from m2mkd.config.experiment import TeacherExperiment
from m2mkd.config.models import ViTConfig
from m2mkd.errors import InputError
from m2mkd.study.data import Data
from m2mkd.study.phases import AssembleTeacher, EvaluateTeacher, IncubateModule, MeasureHybrid, PretrainMeta, SplitTeacher
from m2mkd.study.plan.draft import Draft


def teacher_named(draft: Draft, name: str) -> tuple[TeacherExperiment, ViTConfig, ViTConfig]:
    """A teacher experiment with its architecture and that of its meta model."""
    experiment = draft.experiment(name)
    if not isinstance(experiment, TeacherExperiment):
        raise InputError(f"{draft.where}: teacher '{name}' is a {experiment.kind} experiment; name one of kind teacher")
    model, meta = draft.model(experiment.model, ViTConfig), draft.model(experiment.meta, ViTConfig)
    if model.modules != meta.modules or model.width != meta.width:
        raise InputError(
            f"experiment {name}: teacher ({model.modules} stages of width {model.width}) and meta model "
            f"({meta.modules} of width {meta.width}) must have the same number of stages and the same width"
        )
    return experiment, model, meta


def pretrained(draft: Draft, name: str) -> str:
    """Id of the run that pre-trains the meta model, or imports it."""
    experiment, _, meta = teacher_named(draft, name)
    data = draft.data(experiment.data)
    if experiment.imports.meta is not None:
        return draft.imported(experiment.imports.meta, f"experiment {name}: imports.meta", meta, data)
    return draft.run(PretrainMeta, meta, {}, model=meta, data=data, recipe=draft.recipe(experiment.pretrain))


def assembled(draft: Draft, name: str) -> str:
    """Id of the run that assembles the teacher from its incubated modules, or imports it."""
    experiment, model, meta = teacher_named(draft, name)
    data = draft.data(experiment.data)
    if experiment.imports.teacher is not None:
        return draft.imported(experiment.imports.teacher, f"experiment {name}: imports.teacher", model, data)
    upstream, recipe = {"meta": [pretrained(draft, name)]}, draft.recipe(experiment.incubate)
    incubated = [
        draft.run(IncubateModule, model, upstream, meta=meta, model=model, index=index, data=data, recipe=recipe)
        for index in range(model.modules)
    ]
    return draft.run(AssembleTeacher, model, {"modules": incubated}, model=model, data=data, recipe=draft.recipe(experiment.assemble))


def split(draft: Draft, name: str, index: int) -> str:
    """Id of the run that cuts one module out of the teacher."""
    _, model, _ = teacher_named(draft, name)
    return draft.run(SplitTeacher, model, {"teacher": [assembled(draft, name)]}, model=model, index=index)


def measured_hybrids(draft: Draft, name: str, data: Data) -> str:
    """Id of the run that measures the meta model with each of its stages replaced by the teacher's module."""
    _, model, meta = teacher_named(draft, name)
    upstream = {"meta": [pretrained(draft, name)], "teacher": [assembled(draft, name)]}
    return draft.run(MeasureHybrid, model, upstream, meta=meta, model=model, data=data)


def add_teacher(draft: Draft, name: str) -> None:
    """Add all runs of a teacher, and its row."""
    experiment, model, _ = teacher_named(draft, name)
    trained = assembled(draft, name)
    for index in range(model.modules):
        split(draft, name, index)
    released = draft.profile == "released" and not experiment.imports.teacher
    batch = draft.recipe(experiment.assemble).batch_size if released else None
    data = draft.data(experiment.data)
    measured = draft.run(EvaluateTeacher, model, {"teacher": [trained]}, model=model, data=data, batch_size=batch)
    draft.row(name, "teacher", [trained], [measured])
