"""From experiments and a scale to the graph of runs."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from m2mkd.config import load
from m2mkd.config.compat import Profile, Value, switches_for
from m2mkd.config.datasets import PREPARE_FORMAT, Dataset
from m2mkd.config.experiment import (
    AblationExperiment,
    Catalogue,
    Experiment,
    Scale,
    Settings,
    StudentExperiment,
    TeacherExperiment,
    TransferExperiment,
    Variant,
)
from m2mkd.config.imports import imported_digest
from m2mkd.config.models import NAC, Model, ViT, VMoE
from m2mkd.config.phases import (
    AssembleTeacher,
    Data,
    DistillModule,
    Evaluate,
    EvaluateTeacher,
    ImportWeights,
    IncubateModule,
    MeasureHybrid,
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


def resolve_data(text: str, field: str) -> tuple[Data, Dataset]:
    """A data set written ``name@size``, with its key, and its entry in the registry.

    Raises
    ------
    InputError
        If it is not of that form, or not in the registry; ``field`` says where it stands.
    """
    ref = load.data_ref(text, field)
    dataset = load.datasets()[ref.name]
    key = digest([ref.name, ref.image_size, PREPARE_FORMAT, dataset.layout, [file.identity for file in dataset.files]])
    return Data(name=ref.name, image_size=ref.image_size, classes=dataset.classes, key=key), dataset


def _variants(experiment: Experiment) -> list[str]:
    """Variants, or settings, that can be chosen one by one."""
    if isinstance(experiment, StudentExperiment):
        return list(experiment.variants)
    return list(experiment.settings) if isinstance(experiment, AblationExperiment) else []


class _Builder:
    def __init__(self, study: Study, scale: Scale, catalogue: Catalogue, compat: Mapping[str, Value] | None = None, user: str = ""):
        self.study, self.scale, self.catalogue = study, scale, catalogue
        self.compat, self.user = compat or {}, user
        self.switched: set[str] = set()
        """Switches of ``compat`` that a run has taken."""
        # Each is asked for by every run of its students; reading it from its file every time would take most of the planning.
        self.experiment = cache(lambda name: load.experiment(name, scale))

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

    def recipe(self, name: str | None) -> Recipe:
        assert name is not None, "the experiment's validation has seen to it"
        if name not in self.catalogue.recipes:
            raise InputError(
                f"experiment {self.user}: recipe '{name}' is not in config/recipes.yaml; it has {', '.join(sorted(self.catalogue.recipes))}"
            )
        return self.catalogue.recipes[name]

    def data(self, text: str) -> Data:
        return resolve_data(self.scale.data.get(text, text), f"experiment {self.user}: data")[0]

    def check_trainable(self, data: Data) -> None:
        """Refuse to train on a set that is only measured on, such as ImageNet-R."""
        if load.datasets()[data.name].train_images is None:
            raise InputError(
                f"experiment {self.user}: data {data} has no training images, it is only measured on; name it under ood or train on another"
            )

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
        if "recipe" in fields:
            self.check_trainable(fields["data"])
        name = phase.model_fields["phase"].default
        compat = switches_for(load.switches(), profile, name, model.family, published_data.partition("@")[0], distilled)
        switched = {switch: value for switch, value in self.compat.items() if switch in compat}
        self.switched |= switched.keys()
        config = phase(threads=self.scale.threads, compat=compat | switched, **fields)
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

    def row(self, experiment: str, variant: str, profile: Profile, trained: Iterable[str], measured: Iterable[str]) -> None:
        row = Row(experiment, variant, profile, tuple(trained), tuple(measured))
        if row not in self.study.rows:
            self.study.rows.append(row)

    # --- the teacher --------------------------------------------------------------------------------------------------

    def teacher(self, name: str) -> tuple[TeacherExperiment, ViT, ViT]:
        """A teacher experiment with its architecture and that of its meta model."""
        experiment = self.experiment(name)
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

    def imported(
        self,
        file: str,
        field: str,
        profile: Profile,
        model: Model,
        data: Data,
        *,
        index: int | None = None,
        stitch_width: int | None = None,
    ) -> str:
        """Id of the run that takes the weights of a model, or of one module of it, from a file."""
        self.check_fit(model, data)
        return self.run(
            ImportWeights,
            profile,
            model,
            {},
            model=model,
            index=index,
            image_size=data.image_size,
            classes=data.classes,
            stitch_width=stitch_width,
            sha256=imported_digest(file, field),
            file=file,
        )

    def add_teacher(self, name: str, profile: Profile) -> None:
        experiment, model, _ = self.teacher(name)
        assembled = self.assembled(name, profile)
        for index in range(model.modules):
            self.split(name, index, profile)
        batch = self.recipe(experiment.assemble).batch_size if profile == "released" and not experiment.imports.teacher else None
        data = self.data(experiment.data)
        measured = self.run(EvaluateTeacher, profile, model, {"teacher": (assembled,)}, model=model, data=data, batch_size=batch)
        self.row(name, "teacher", profile, [assembled], [measured])

    # --- students -----------------------------------------------------------------------------------------------------

    def modules(self, experiment: StudentExperiment, variant: str, replicates: tuple[int, ...], profile: Profile) -> tuple[str, ...]:
        """Ids of the distilled or imported modules that a variant loads, in their order."""
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
        how = experiment.variants[variant]
        indices = range(student.modules) if how.load_modules == "all" else how.load_modules
        if max(indices) >= student.modules:
            raise InputError(
                f"experiment {self.user}: variants.{variant}.load_modules: student '{experiment.model}' has modules 0 to "
                f"{student.modules - 1}, not {max(indices)}"
            )
        if how.imports.modules is not None:
            return self.imported_modules(experiment, variant, list(indices), profile)
        upstream = {"meta": (self.pretrained(experiment.teacher, profile),)}
        splits = []
        if loss.kind != "none":
            self.hybrids(experiment.teacher, data, profile)
            splits = [self.split(experiment.teacher, index, profile) for index in range(student.modules)]
        ids = []
        for index in indices:
            if splits:
                upstream["teacher_module"] = (splits[index],)
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

    def imported_modules(self, experiment: StudentExperiment, variant: str, indices: list[int], profile: Profile) -> tuple[str, ...]:
        """Ids of the runs that take the modules of a variant from files."""
        student, data = self.model(experiment.model, VMoE, NAC), self.data(experiment.distill.data)
        files = experiment.variants[variant].imports.modules or ()
        where = f"experiment {self.user}: variants.{variant}.imports.modules"
        if len(files) != len(indices):
            raise InputError(f"{where}: {len(files)} files, but modules {', '.join(map(str, indices))} are loaded; give one for each")
        width = self.teacher(experiment.teacher)[2].width
        return tuple(
            self.imported(file, where, profile, student, data, index=index, stitch_width=width)
            for index, file in zip(indices, files, strict=True)
        )

    def students(self, experiment: StudentExperiment, variant: str, profile: Profile) -> tuple[str, ...]:
        """Ids of the runs that train one variant, one a batch of replicates; of the one that imports it, where it is imported."""
        how: Variant = experiment.variants[variant]
        student = self.model(experiment.model, VMoE, NAC)
        if isinstance(student, NAC) != (experiment.prior is not None):
            raise InputError(f"experiment {self.user}: prior is {experiment.prior}, but a NAC needs one and a V-MoE has none")
        _, teacher, meta = self.teacher(experiment.teacher)
        stitch_width = meta.width if isinstance(student, VMoE) and student.stitch == "kept" else None
        if how.imports.student is not None:
            where = f"experiment {self.user}: variants.{variant}.imports.student"
            data = self.data(experiment.data)
            return (self.imported(how.imports.student, where, profile, student, data, stitch_width=stitch_width),)
        runs = []
        for replicates in self.batches():
            upstream = {}
            if how.init == "modules":
                upstream["modules"] = self.modules(experiment, variant, replicates, profile)
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
                    load_modules=None if how.load_modules == "all" else how.load_modules,
                    stitch_width=stitch_width,
                    distillation=how.distillation,
                    teacher=teacher if how.distillation else None,
                    replicates=replicates,
                )
            )
        return tuple(runs)

    def seeds(self, trained: str) -> list[tuple[int, ...]]:
        """Batches of replicates in which a student is measured: those it was trained in, or all where one was imported."""
        config = self.study.runs[trained].config
        return list(self.batches()) if isinstance(config, ImportWeights) else [config.replicates]

    def evaluation(self, experiment: StudentExperiment, trained: str, profile: Profile) -> str:
        config, data, student = self.study.runs[trained].config, self.data(experiment.data), self.model(experiment.model, VMoE, NAC)
        assert isinstance(config, TrainStudent | ImportWeights)
        ood = tuple(self.data(name) for name in experiment.ood)
        for other in ood:
            if other.image_size != data.image_size:
                raise InputError(
                    f"experiment {self.user}: ood: {other} has another image size than the student's data {data}; make them equal"
                )
        return self.run(
            Evaluate,
            profile,
            student,
            {"student": (trained,)},
            student=student,
            prior=experiment.prior,
            stitch_width=config.stitch_width,
            data=data,
            ood=ood,
            batch_size=config.recipe.batch_size if profile == "released" and isinstance(config, TrainStudent) else None,
            replicates=self.seeds(trained)[0],
        )

    # --- ablations ----------------------------------------------------------------------------------------------------

    def add_setting(self, name: str, ablation: AblationExperiment, chosen: str, profile: Profile) -> None:
        """One setting of an ablation: its student, planned under its changes."""
        setting, where = ablation.settings[chosen], f"experiment {name}: settings.{chosen}"
        for switch, value in setting.compat.items():
            known = load.switches().get(switch)
            if known is None or value not in (known.released, known.corrected):
                mend = f"give {known.released} or {known.corrected}" if known else f"there are {', '.join(load.switches())}"
                raise InputError(f"{where}: compat: {switch} {value} is not in config/compat.yaml; {mend}")
        scale = load.changed(self.scale, setting.changes, where) if setting.changes else self.scale
        catalogue = load.catalogue(scale) if setting.models or setting.recipes else self.catalogue
        builder = _Builder(self.study, scale, catalogue, setting.compat, name)
        experiment, variant = builder.student(ablation.student(chosen), f"{where}: of")
        trained = builder.students(experiment, variant, profile)
        measured = tuple(builder.evaluation(experiment, run, profile) for run in trained)
        for switch in setting.compat:
            if switch not in builder.switched:
                raise InputError(f"{where}: compat: {switch} changes nothing in {ablation.student(chosen)}; remove it")
        self.row(name, chosen, profile, trained, measured)

    def student(self, selector: str, field: str) -> tuple[StudentExperiment, str]:
        """The student experiment and the variant that ``experiment/variant`` names."""
        source, _, variant = selector.partition("/")
        experiment = self.experiment(source)
        if not isinstance(experiment, StudentExperiment) or variant not in experiment.variants:
            raise InputError(f"{field}: '{selector}' is not the variant of a student experiment; write experiment/variant")
        return experiment, variant

    # --- transfer -----------------------------------------------------------------------------------------------------

    def add_transfer(self, name: str, transfer: TransferExperiment, profile: Profile) -> None:
        for selector in transfer.students:
            experiment, variant = self.student(selector, f"experiment {name}: students")
            trained = self.students(experiment, variant, profile)
            if transfer.probe is None:
                measured = tuple(self.evaluation(experiment, run, profile) for run in trained)
            else:
                measured = tuple(self.probe(transfer, experiment, run, seeds, profile) for run in trained for seeds in self.seeds(run))
            self.row(name, selector, profile, trained, measured)

    def probe(
        self, transfer: TransferExperiment, experiment: StudentExperiment, trained: str, seeds: tuple[int, ...], profile: Profile
    ) -> str:
        config, probe, student = self.study.runs[trained].config, transfer.probe, self.model(experiment.model, VMoE, NAC)
        assert isinstance(config, TrainStudent | ImportWeights) and probe is not None
        return self.run(
            TrainProbe,
            profile,
            student,
            {"student": (trained,)},
            student=student,
            prior=experiment.prior,
            student_data=self.data(experiment.data),
            stitch_width=config.stitch_width,
            data=self.data(probe.data),
            published_data=probe.data,
            way=probe.way,
            shots=probe.shots,
            episodes=probe.episodes,
            recipe=self.recipe(probe.recipe),
            replicates=seeds,
        )
