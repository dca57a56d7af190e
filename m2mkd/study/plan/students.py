"""Runs of a student: its modules, itself, its evaluation."""

from typing import Any

from m2mkd.config.experiment import StudentExperiment, Variant
from m2mkd.config.family import Architecture
from m2mkd.config.registered_families import student_family
from m2mkd.errors import InputError
from m2mkd.study.phases import DistillModule, Evaluate, ImportWeights, TrainStudent
from m2mkd.study.plan.draft import Draft
from m2mkd.study.plan.teachers import assembled, measured_hybrids, pretrained, split, teacher_named


def modules(draft: Draft, experiment: StudentExperiment, variant: str, seed: int) -> list[str]:
    """Ids of the distilled or imported modules that a variant loads, in their order."""
    _, teacher, meta = teacher_named(draft, experiment.teacher)
    student, data, taught_by = _student(draft, experiment), draft.data(experiment.distill.data), experiment.distill.taught_by
    indices = _indices(draft, experiment, variant)
    if experiment.variants[variant].imports.modules is not None:
        return _imported_modules(draft, experiment, variant, indices)
    upstream = {"meta": [pretrained(draft, experiment.teacher)]}
    splits = []
    if taught_by.needs_teacher:
        measured_hybrids(draft, experiment.teacher, data)
        splits = [split(draft, experiment.teacher, index) for index in range(student.modules)]
    networks: dict[str, Any] = {"student": student, "meta": meta, "teacher": teacher}
    how: dict[str, Any] = {"data": data, "recipe": draft.recipe(experiment.distill.recipe), "seed": seed}
    how["objective" if experiment.distill.objective else "loss"] = taught_by
    return [
        draft.run(
            DistillModule,
            student,
            upstream | ({"teacher_module": [splits[index]]} if splits else {}),
            distilled=taught_by.is_normalised,
            index=index,
            **networks,
            **how,
        )
        for index in indices
    ]


def _student(draft: Draft, experiment: StudentExperiment) -> Architecture:
    """The student's architecture, which must fit its experiment."""
    student = draft.student(experiment.model)
    family = student_family(student)
    if (experiment.prior is not None) != family.TAKES_PRIOR:
        needed = "needs one" if family.TAKES_PRIOR else "has none"
        raise InputError(f"{draft.where}: prior is {experiment.prior}, but a {family.LABEL} {needed}")
    return student


def _indices(draft: Draft, experiment: StudentExperiment, variant: str) -> list[int]:
    """Numbers of the modules that a variant loads."""
    student, (teacher, model, _) = _student(draft, experiment), teacher_named(draft, experiment.teacher)
    if student.modules != model.modules:
        raise InputError(
            f"{draft.where}: student '{experiment.model}' has {student.modules} modules, "
            f"but teacher '{teacher.model}' has {model.modules}; they must be equal"
        )
    family = student_family(student)
    if family.SAME_DATA and draft.data(experiment.distill.data) != draft.data(experiment.data):
        reason = f"a {family.LABEL} takes positions and head from its modules"
        raise InputError(f"{draft.where}: {reason}, so distill.data must be the student's data")
    wanted = experiment.variants[variant].load_modules
    indices = list(range(student.modules)) if wanted == "all" else list(wanted)
    if max(indices) >= student.modules:
        raise InputError(
            f"{draft.where}: variants.{variant}.load_modules: student '{experiment.model}' has modules 0 to "
            f"{student.modules - 1}, not {max(indices)}"
        )
    return indices


def _imported_modules(draft: Draft, experiment: StudentExperiment, variant: str, indices: list[int]) -> list[str]:
    """Ids of the runs that take the modules of a variant from files."""
    student, data = _student(draft, experiment), draft.data(experiment.distill.data)
    files = experiment.variants[variant].imports.modules or ()
    where = f"{draft.where}: variants.{variant}.imports.modules"
    if len(files) != len(indices):
        raise InputError(f"{where}: {len(files)} files, but modules {', '.join(map(str, indices))} are loaded; give one for each")
    width = teacher_named(draft, experiment.teacher)[2].width
    return [draft.imported(file, where, student, data, index=index, stitch_width=width) for index, file in zip(indices, files, strict=True)]


def training_runs(draft: Draft, experiment: StudentExperiment, variant: str, seeds: tuple[int, ...]) -> tuple[str, ...]:
    """Ids of the runs that train one variant, one per seed; or of the single run that imports it."""
    how: Variant = experiment.variants[variant]
    student = _student(draft, experiment)
    meta = teacher_named(draft, experiment.teacher)[2]
    stitch_width = student_family(student).stitch_width(student, meta.width)
    if how.imports.student is not None:
        where = f"{draft.where}: variants.{variant}.imports.student"
        return (draft.imported(how.imports.student, where, student, draft.data(experiment.data), stitch_width=stitch_width),)
    return tuple(_trained(draft, experiment, variant, seed, stitch_width) for seed in seeds)


def _trained(draft: Draft, experiment: StudentExperiment, variant: str, seed: int, stitch_width: int | None) -> str:
    how, student = experiment.variants[variant], _student(draft, experiment)
    family = student_family(student)
    if how.codes != "independent" and not family.HAS_CODES:
        raise InputError(
            f"{draft.where}: variants.{variant}.codes: {how.codes}, but student '{experiment.model}' is a {family.LABEL} and has none"
        )
    upstream = {}
    if how.init == "modules":
        upstream["modules"] = modules(draft, experiment, variant, seed)
    taught = how.distillation is not None or (how.objective is not None and how.objective.needs_teacher)
    if how.objective is not None and "tokens" in how.objective.needs and not family.HAS_STAGES:
        kinds = ", ".join(term.kind for term in how.objective.terms if "tokens" in term.NEEDS)
        raise InputError(
            f"{draft.where}: variants.{variant}.objective: {kinds} needs tokens of stages, but student '{experiment.model}' has none as a "
            "whole; remove that term, or give it to distill.objective"
        )
    if taught:
        upstream["teacher"] = [assembled(draft, experiment.teacher)]
    return draft.run(
        TrainStudent,
        student,
        upstream,
        distilled=how.taught_by is not None and how.taught_by.is_normalised,
        seed=seed,
        student=student,
        prior=experiment.prior,
        data=draft.data(experiment.data),
        recipe=draft.recipe(how.recipe),
        init=how.init,
        module_data=draft.data(experiment.distill.data) if how.init == "modules" else None,
        load_modules=None if how.load_modules == "all" else how.load_modules,
        codes=how.codes,
        stitch_width=stitch_width,
        distillation=how.distillation,
        objective=how.objective,
        teacher=teacher_named(draft, experiment.teacher)[1] if taught else None,
    )


def with_seeds(draft: Draft, runs: tuple[str, ...], seeds: tuple[int, ...]) -> list[tuple[str, int]]:
    """Trained student of each seed; an imported one is the same for all seeds."""
    return list(zip(runs if len(runs) == len(seeds) else runs * len(seeds), seeds, strict=True))


def evaluation_runs(draft: Draft, experiment: StudentExperiment, runs: tuple[str, ...], seeds: tuple[int, ...]) -> tuple[str, ...]:
    """Ids of the runs that measure a student, one per seed; an imported one is measured and counted once."""
    return tuple(_evaluation_run(draft, experiment, run, seed) for run, seed in zip(runs, seeds, strict=False))


def _evaluation_run(draft: Draft, experiment: StudentExperiment, run: str, seed: int) -> str:
    config, data, student = draft.study.runs[run].config, draft.data(experiment.data), _student(draft, experiment)
    assert isinstance(config, TrainStudent | ImportWeights)
    ood = tuple(draft.data(name) for name in experiment.ood)
    for other in ood:
        if other.image_size != data.image_size:
            raise InputError(f"{draft.where}: ood: {other} has another image size than the student's data {data}; make them equal")
    return draft.run(
        Evaluate,
        student,
        {"student": [run]},
        seed=seed,
        student=student,
        prior=experiment.prior,
        stitch_width=config.stitch_width,
        data=data,
        ood=ood,
        batch_size=config.recipe.batch_size if draft.profile == "released" and isinstance(config, TrainStudent) else None,
    )


def selected(draft: Draft, selector: str, field: str) -> tuple[StudentExperiment, str]:
    """Student experiment and variant that ``experiment/variant`` names."""
    source, _, variant = selector.partition("/")
    experiment = draft.experiment(source)
    if not isinstance(experiment, StudentExperiment) or variant not in experiment.variants:
        raise InputError(f"{field}: '{selector}' is not the variant of a student experiment; write experiment/variant")
    return experiment, variant


def add_student(draft: Draft, name: str, experiment: StudentExperiment, variant: str) -> None:
    """Add all runs of one variant of a student, and its row."""
    seeds = draft.with_more(experiment.seeds, experiment.variants[variant].seeds)
    runs = training_runs(draft, experiment, variant, seeds)
    draft.row(name, variant, runs, evaluation_runs(draft, experiment, runs, seeds))
