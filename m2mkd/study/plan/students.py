"""Runs of a student: its modules, itself, its evaluation."""

from m2mkd.config.compat import Profile
from m2mkd.config.experiment import StudentExperiment, Variant
from m2mkd.config.models import NACConfig, VMoEConfig
from m2mkd.errors import InputError
from m2mkd.study.phases import DistillModule, Evaluate, ImportWeights, TrainStudent
from m2mkd.study.plan.teachers import Teachers


class Students(Teachers):
    """Plans students, and the teachers that they need."""

    def modules(self, experiment: StudentExperiment, variant: str, replicates: tuple[int, ...], profile: Profile) -> tuple[str, ...]:
        """Ids of the distilled or imported modules that a variant loads, in their order."""
        teacher, teacher_model, meta = self.teacher(experiment.teacher)
        student = self.model(experiment.model, VMoEConfig, NACConfig)
        if student.modules != teacher_model.modules:
            raise InputError(
                f"experiment {self.user}: student '{experiment.model}' has {student.modules} modules, "
                f"but teacher '{teacher.model}' has {teacher_model.modules}; they must be equal"
            )
        data, loss = self.data(experiment.distill.data), experiment.distill.loss
        if isinstance(student, VMoEConfig) and data != self.data(experiment.data):
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
        student, data = self.model(experiment.model, VMoEConfig, NACConfig), self.data(experiment.distill.data)
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
        student = self.model(experiment.model, VMoEConfig, NACConfig)
        if isinstance(student, NACConfig) != (experiment.prior is not None):
            raise InputError(f"experiment {self.user}: prior is {experiment.prior}, but a NAC needs one and a V-MoE has none")
        _, teacher, meta = self.teacher(experiment.teacher)
        stitch_width = meta.width if isinstance(student, VMoEConfig) and student.stitch == "kept" else None
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
        config, data, student = (
            self.study.runs[trained].config,
            self.data(experiment.data),
            self.model(experiment.model, VMoEConfig, NACConfig),
        )
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

    def student(self, selector: str, field: str) -> tuple[StudentExperiment, str]:
        """The student experiment and the variant that ``experiment/variant`` names."""
        source, _, variant = selector.partition("/")
        experiment = self.experiment(source)
        if not isinstance(experiment, StudentExperiment) or variant not in experiment.variants:
            raise InputError(f"{field}: '{selector}' is not the variant of a student experiment; write experiment/variant")
        return experiment, variant
