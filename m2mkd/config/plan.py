"""From experiments and a scale to the graph of runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from m2mkd.config import load
from m2mkd.config.compat import Profile, switches_for
from m2mkd.config.datasets import PREPARE_FORMAT, Dataset
from m2mkd.config.experiment import Catalogue, Scale, Settings, StudentExperiment, TeacherExperiment, TransferExperiment, Variant
from m2mkd.config.models import NAC, Model, ViT, VMoE
from m2mkd.config.phases import (
    AssembleTeacher,
    Data,
    DistillModule,
    Evaluate,
    EvaluateTeacher,
    IncubateModule,
    Phase,
    PretrainMeta,
    SplitTeacher,
    TrainProbe,
    TrainStudent,
    digest,
)
from m2mkd.config.recipe import Recipe
from m2mkd.config.study import Row, Run, Study
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


def resolve_data(text: str, field: str) -> tuple[Data, Dataset]:
    """A data set written ``name@size``, with its key, and its entry in the registry.

    Raises
    ------
    InputError
        If it is not of that form, or not in the registry; ``field`` says where it stands.
    """
    ref = load.data_ref(text, field)
    dataset = load.datasets()[ref.name]
    key = digest([ref.name, ref.image_size, PREPARE_FORMAT, dataset.layout, dataset.sha256 or dataset.md5 or list(dataset.urls)])
    return Data(name=ref.name, image_size=ref.image_size, classes=dataset.classes, key=key), dataset


class _Builder:
    def __init__(self, study: Study, scale: Scale, catalogue: Catalogue):
        self.study, self.scale, self.catalogue = study, scale, catalogue
        self.user = ""

    # --- naming -------------------------------------------------------------------------------------------------------

    def model(self, name: str, *families: type) -> Any:
        model = self.catalogue.models.get(name)
        if model is None:
            raise InputError(
                f"experiment {self.user}: model '{name}' is not in config/models.yaml; it has {', '.join(sorted(self.catalogue.models))}"
            )
        if type(model) not in families:
            wanted = " or ".join(cls.__name__ for cls in families)
            raise InputError(f"experiment {self.user}: model '{name}' is a {type(model).__name__}, but a {wanted} is needed here")
        return model

    def recipe(self, name: str) -> Recipe:
        if name not in self.catalogue.recipes:
            raise InputError(
                f"experiment {self.user}: recipe '{name}' is not in config/recipes.yaml; it has {', '.join(sorted(self.catalogue.recipes))}"
            )
        return self.catalogue.recipes[name]

    def data(self, text: str) -> Data:
        return resolve_data(self.scale.data.get(text, text), f"experiment {self.user}: data")[0]

    def check_fit(self, model: Model, data: Data) -> None:
        """Refuse images that the model cannot cut into whole patches."""
        if data.image_size % model.stride:
            name = next(name for name, known in self.catalogue.models.items() if known is model)
            what = "tokenizer's total stride" if isinstance(model, NAC) else "patch_size"
            raise InputError(
                f"experiment {self.user}: model '{name}' cannot take data {data}: {data.image_size} pixels are not a multiple of "
                f"its {what} {model.stride}; change models.{name} or the image size"
            )

    # --- runs ---------------------------------------------------------------------------------------------------------

    def run(
        self,
        phase: type[Phase],
        profile: Profile,
        model: Model,
        upstream: Mapping[str, tuple[str, ...]],
        /,
        *,
        distilled=False,
        published_data="",
        **fields,
    ) -> str:
        for role in ("model", "meta", "teacher", "student"):
            if fields.get(role) and "data" in fields:
                self.check_fit(fields[role], fields["data"])
        name = phase.model_fields["phase"].default
        compat = switches_for(load.switches(), profile, name, model.family, published_data.partition("@")[0], distilled)
        config = phase(threads=self.scale.threads, compat=compat, **fields)
        run = Run(config, dict(upstream))
        kept = self.study.runs.setdefault(run.id, run)
        kept.users.add(self.user)
        return run.id

    def batches(self) -> Iterable[tuple[int, ...]]:
        """Replicates, as many at a time as one job trains."""
        size = self.scale.replicates_per_job
        return (tuple(range(first, first + size)) for first in range(0, self.scale.replicates, size))

    def add(self, name: str, variant: str | None, profile: Profile) -> None:
        self.user = name
        experiment = load.experiment(name, self.scale)
        if variant is not None and not (isinstance(experiment, StudentExperiment) and variant in experiment.variants):
            known = ", ".join(experiment.variants) if isinstance(experiment, StudentExperiment) else "none"
            raise InputError(f"experiment {name}: no variant '{variant}'; it has {known}")
        if isinstance(experiment, TeacherExperiment):
            self.add_teacher(name, profile)
        elif isinstance(experiment, StudentExperiment):
            for chosen in [variant] if variant else experiment.variants:
                trained = self.students(experiment, chosen, profile)
                measured = tuple(self.evaluations(experiment, run, profile) for run in trained)
                self.row(name, chosen, profile, trained, measured)
        else:
            self.add_transfer(name, experiment, profile)

    def row(self, experiment: str, variant: str, profile: Profile, trained: Iterable[str], measured: Iterable[str]) -> None:
        row = Row(experiment, variant, profile, tuple(trained), tuple(measured))
        if row not in self.study.rows:
            self.study.rows.append(row)

    # --- the teacher --------------------------------------------------------------------------------------------------

    def teacher(self, name: str) -> tuple[TeacherExperiment, ViT, ViT]:
        """A teacher experiment with its architecture and that of its meta model."""
        experiment = load.experiment(name, self.scale)
        if not isinstance(experiment, TeacherExperiment):
            raise InputError(f"experiment {self.user}: teacher '{name}' is a {experiment.kind} experiment; name one of kind teacher")
        model, meta = self.model(experiment.model, ViT), self.model(experiment.meta, ViT)
        if model.modules != meta.modules or model.width != meta.width:
            raise InputError(
                f"experiment {name}: teacher ({model.modules} stages of width {model.width}) and meta model "
                f"({meta.modules} of width {meta.width}) must have the same number of stages and the same width"
            )
        return experiment, model, meta

    def pretrained(self, name: str, profile: Profile) -> str:
        """Id of the run that pre-trains the meta model."""
        experiment, _, meta = self.teacher(name)
        data, recipe = self.data(experiment.data), self.recipe(experiment.pretrain)
        return self.run(PretrainMeta, profile, meta, {}, model=meta, data=data, recipe=recipe)

    def assembled(self, name: str, profile: Profile) -> str:
        """Id of the run that assembles the teacher from its incubated modules."""
        experiment, model, meta = self.teacher(name)
        data, recipe, upstream = self.data(experiment.data), self.recipe(experiment.incubate), {"meta": (self.pretrained(name, profile),)}
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

    def add_teacher(self, name: str, profile: Profile) -> None:
        experiment, model, _ = self.teacher(name)
        assembled = self.assembled(name, profile)
        for index in range(model.modules):
            self.split(name, index, profile)
        measured = self.run(EvaluateTeacher, profile, model, {"teacher": (assembled,)}, model=model, data=self.data(experiment.data))
        self.row(name, "teacher", profile, [assembled], [measured])

    # --- students -----------------------------------------------------------------------------------------------------

    def modules(self, experiment: StudentExperiment, replicates: tuple[int, ...], profile: Profile) -> tuple[str, ...]:
        """Ids of the distilled modules, first to last."""
        teacher, teacher_model, meta = self.teacher(experiment.teacher)
        student = self.model(experiment.model, VMoE, NAC)
        if student.modules != teacher_model.modules:
            raise InputError(
                f"experiment {self.user}: student '{experiment.model}' has {student.modules} modules, "
                f"but teacher '{teacher.model}' has {teacher_model.modules}; they must be equal"
            )
        data, loss = self.data(experiment.distill.data), experiment.distill.loss
        if isinstance(student, VMoE) and data != self.data(experiment.data):
            raise InputError(
                f"experiment {self.user}: a V-MoE takes positions and head from its modules, so distill.data must be the student's data"
            )
        upstream = {"meta": (self.pretrained(experiment.teacher, profile),)}
        ids = []
        for index in range(student.modules):
            if loss.kind != "none":
                upstream["teacher_module"] = (self.split(experiment.teacher, index, profile),)
            ids.append(
                self.run(
                    DistillModule,
                    profile,
                    student,
                    upstream,
                    distilled=loss.kind == "soft",
                    student=student,
                    index=index,
                    meta=meta,
                    teacher=teacher_model,
                    data=data,
                    recipe=self.recipe(experiment.distill.recipe),
                    loss=loss,
                    replicates=replicates,
                )
            )
        return tuple(ids)

    def students(self, experiment: StudentExperiment, variant: str, profile: Profile) -> tuple[str, ...]:
        """Ids of the runs that train one variant, one a batch of replicates."""
        how: Variant = experiment.variants[variant]
        student = self.model(experiment.model, VMoE, NAC)
        if isinstance(student, NAC) != (experiment.prior is not None):
            raise InputError(f"experiment {self.user}: prior is {experiment.prior}, but a NAC needs one and a V-MoE has none")
        _, teacher, meta = self.teacher(experiment.teacher)
        runs = []
        for replicates in self.batches():
            upstream = {}
            if how.init == "modules":
                upstream["modules"] = self.modules(experiment, replicates, profile)
            if how.distillation is not None:
                upstream["teacher"] = (self.assembled(experiment.teacher, profile),)
            runs.append(
                self.run(
                    TrainStudent,
                    profile,
                    student,
                    upstream,
                    distilled=how.distillation is not None and how.distillation.kind == "soft",
                    student=student,
                    prior=experiment.prior,
                    data=self.data(experiment.data),
                    recipe=self.recipe(how.recipe),
                    init=how.init,
                    module_data=self.data(experiment.distill.data) if how.init == "modules" else None,
                    stitch_width=meta.width if isinstance(student, VMoE) and student.stitch == "kept" else None,
                    distillation=how.distillation,
                    teacher=teacher if how.distillation else None,
                    replicates=replicates,
                )
            )
        return tuple(runs)

    def evaluations(self, experiment: StudentExperiment, trained: str, profile: Profile) -> str:
        config = self.study.runs[trained].config
        assert isinstance(config, TrainStudent)
        ood = tuple(self.data(name) for name in experiment.ood)
        for data in ood:
            if data.image_size != config.data.image_size:
                raise InputError(
                    f"experiment {self.user}: ood: {data} has another image size than the student's data {config.data}; make them equal"
                )
        return self.run(
            Evaluate,
            profile,
            config.student,
            {"student": (trained,)},
            student=config.student,
            prior=config.prior,
            stitch_width=config.stitch_width,
            data=config.data,
            ood=ood,
            replicates=config.replicates,
        )

    # --- transfer -----------------------------------------------------------------------------------------------------

    def add_transfer(self, name: str, transfer: TransferExperiment, profile: Profile) -> None:
        for selector in transfer.students:
            source, _, variant = selector.partition("/")
            experiment = load.experiment(source, self.scale)
            if not isinstance(experiment, StudentExperiment) or variant not in experiment.variants:
                raise InputError(
                    f"experiment {name}: students: '{selector}' is not the variant of a student experiment; write experiment/variant"
                )
            trained = self.students(experiment, variant, profile)
            if transfer.probe is None:
                measured = tuple(self.evaluations(experiment, run, profile) for run in trained)
            else:
                measured = tuple(self.probe(transfer, run, profile) for run in trained)
            self.row(name, selector, profile, trained, measured)

    def probe(self, transfer: TransferExperiment, trained: str, profile: Profile) -> str:
        config, probe = self.study.runs[trained].config, transfer.probe
        assert isinstance(config, TrainStudent) and probe is not None
        return self.run(
            TrainProbe,
            profile,
            config.student,
            {"student": (trained,)},
            student=config.student,
            prior=config.prior,
            student_data=config.data,
            stitch_width=config.stitch_width,
            data=self.data(probe.data),
            published_data=probe.data,
            way=probe.way,
            shots=probe.shots,
            recipe=self.recipe(probe.recipe),
            replicates=config.replicates,
        )
