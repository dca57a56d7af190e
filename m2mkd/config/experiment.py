"""Experiments, scales and settings: the files of ``config/`` that people edit."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from m2mkd.config.base import Config, Name
from m2mkd.config.compat import Profile, Value
from m2mkd.config.detection_experiment import DetectionExperiment
from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.models import Model, Prior
from m2mkd.config.objective import Objective
from m2mkd.config.recipe import Distillation, Recipe
from m2mkd.config.seeds import Seeds


class TeacherImports(Config):
    """Imported weights instead of those that a teacher experiment trains; files written by ``m2mkd import``."""

    meta: str | None = None
    """Replaces the pre-training of the meta model."""
    teacher: str | None = None
    """Replaces incubation, assembly and fine-tuning of the teacher."""


class TeacherExperiment(Config):
    """A teacher by Deep Incubation: pre-train the meta model, incubate each module, assemble, fine-tune, split."""

    kind: Literal["teacher"]
    title: str
    model: str
    """Teacher architecture in ``config/models.yaml``; one stage is one module."""
    meta: str
    """Meta model in ``config/models.yaml``; as many stages as the teacher."""
    data: str
    """Training set, as name@size."""
    pretrain: str | None = None
    """Recipe of the meta model; needed unless it is imported."""
    incubate: str | None = None
    """Recipe of each module; needed unless the teacher is imported."""
    assemble: str | None = None
    """Recipe of the assembled teacher; needed unless it is imported."""
    imports: TeacherImports = TeacherImports()
    """Imported weights instead of these phases."""

    @model_validator(mode="after")
    def _trained_or_imported(self):
        for name, file in (("pretrain", self.imports.meta), ("incubate", self.imports.teacher), ("assemble", self.imports.teacher)):
            if getattr(self, name) is None and file is None:
                raise ValueError(f"{name} is missing; name a recipe, or give imports.{'meta' if name == 'pretrain' else 'teacher'}")
        return self


class Distill(Config):
    """Distillation of the student's modules, each on its own."""

    data: str
    """Training set, as name@size; it may differ from the student's."""
    recipe: str
    loss: Distillation = Distillation()
    objective: Objective | None = Field(None, exclude_if=lambda objective: objective is None)
    """What is minimised, as a sum of weighted terms, instead of ``loss``."""

    @property
    def taught_by(self) -> Distillation | Objective:
        """The objective, or the loss where there is none."""
        return self.objective or self.loss

    @model_validator(mode="after")
    def _one_of_both(self):
        if self.objective is not None and self.loss != Distillation():
            raise ValueError("loss and objective are given; remove loss, and write it as terms of the objective")
        return self


Codes = Literal["independent", "identical", "of_modules"]
"""Initial codes of a NAC's latents: each its own, as released; one for all of a group; or near the one its module was distilled for. The
released code can read the last two from files, but nothing in it writes them (``predefined_codes_dir``, nac.md 15)."""


class VariantImports(Config):
    """Imported weights instead of those that a variant trains; files written by ``m2mkd import``."""

    modules: tuple[str, ...] | None = None
    """Replaces m2mKD: the modules, first to last."""
    student: str | None = None
    """Replaces the training, so that only measuring is left."""


class Variant(Config):
    """Variant: a way to train the student."""

    recipe: str | None = None
    """Recipe of the student's end-to-end training; needed unless the student is imported."""
    init: Literal["scratch", "modules"] = "scratch"
    """From scratch, or from modules distilled by m2mKD."""
    load_modules: Literal["all"] | tuple[NonNegativeInt, ...] = "all"
    """Numbers, from 0, of the modules that are distilled and loaded; the others start from scratch."""
    codes: Codes = "independent"
    """Initial codes of a NAC's latents."""
    distillation: Distillation | None = None
    """Plain knowledge distillation by the whole teacher during the end-to-end training."""
    objective: Objective | None = Field(None, exclude_if=lambda objective: objective is None)
    """What is minimised in the end-to-end training, as a sum of weighted terms, instead of ``distillation``."""
    imports: VariantImports = VariantImports()
    """Imported weights instead of modules, or of the whole student."""
    seeds: Seeds | None = None
    """Seeds in addition to those of the scale: a number, or a list."""

    @property
    def taught_by(self) -> Distillation | Objective | None:
        """The objective or the distillation of the end-to-end training; None if it learns from labels alone."""
        return self.objective or self.distillation

    @model_validator(mode="after")
    def _consistent(self):
        if self.objective is not None and self.distillation is not None:
            raise ValueError("distillation and objective are given; remove distillation, and write it as terms of the objective")
        if (self.recipe is None) == (self.imports.student is None):
            raise ValueError("give either a recipe to train the student by, or imports.student to take it from a file")
        if self.init == "scratch" and (self.load_modules != "all" or self.imports.modules is not None):
            raise ValueError("load_modules and imports.modules need init: modules")
        if self.codes == "of_modules" and (self.init, self.load_modules) != ("modules", "all"):
            raise ValueError("codes: of_modules needs init: modules, and all of them; change either")
        if self.imports.student is not None and (self.init != "scratch" or self.taught_by is not None):
            raise ValueError("an imported student is not trained; remove init, distillation and objective")
        if self.load_modules != "all" and (not self.load_modules or list(self.load_modules) != sorted(set(self.load_modules))):
            raise ValueError("load_modules is all, or numbers in ascending order, each once")
        return self


class StudentExperiment(Config):
    """A modular student trained in several ways."""

    kind: Literal["student"]
    title: str
    teacher: str
    """The teacher experiment whose meta model and modules are used."""
    model: str
    """Student architecture in ``config/models.yaml``."""
    prior: Prior | None = None
    """Graph prior of a NAC's mediators."""
    data: str
    """Training set of the student, as name@size; its validation set gives the IID accuracy."""
    distill: Distill
    variants: dict[Name, Variant]
    ood: tuple[str, ...] = ()
    """Out-of-distribution sets, as name@size."""
    seeds: Seeds | None = None
    """Seeds in addition to those of the scale: a number, or a list."""


class TransferExperiment(Config):
    """Students of other experiments, measured out of distribution, or by few-shot linear probes."""

    kind: Literal["transfer"]
    title: str
    students: tuple[str, ...]
    """Students as experiment/variant."""
    probe: "Probe | None" = None
    """Few-shot linear probe; none: the students' own IID and OOD measurements."""
    seeds: Seeds | None = None
    """Seeds in addition to those of the scale: a number, or a list."""


class Probe(Config):
    """Few-shot linear probe: a new head on a frozen student (vmoe.md 5, nac.md 13)."""

    data: str
    """Few-shot set, as name@size."""
    way: PositiveInt
    """Classes in an episode."""
    shots: PositiveInt
    """Training images of each class; validation has three times as many."""
    episodes: PositiveInt = 1
    """Episodes over which the accuracy of a seed is averaged, each with classes and images of its own."""
    recipe: str


class Setting(Config):
    """Setting of an ablation: changes to its student, in the form of a scale file."""

    of: str | None = None
    """Student instead of the ablation's, as experiment/variant."""
    against: str | None = None
    """Setting that it is compared with; none: the first one."""
    compat: dict[str, Value] = {}
    """Values of compat switches, instead of the profile's."""
    models: dict[str, dict] = {}
    recipes: dict[str, dict] = {}
    experiment_changes: dict[str, dict] = {}

    @property
    def changes(self) -> dict[str, dict]:
        """Changes that are merged into the scale."""
        return {name: changes for name in ("models", "recipes", "experiment_changes") if (changes := getattr(self, name))}


class AblationExperiment(Config):
    """A student of another experiment with one thing varied; runs that the study has anyway are shared by their keys."""

    kind: Literal["ablation"]
    title: str
    of: str
    """The student, as experiment/variant."""
    scales: tuple[str, ...] = ()
    """Scales whose ``snakemake ablations`` runs it; by its name it can be run at any scale."""
    settings: dict[Annotated[str, Field(pattern=r"^[a-z0-9_.]+$")], Setting] = Field(min_length=2)
    """Settings by name; the others are compared with the first one unless they name another."""
    seeds: Seeds | None = None
    """Seeds in addition to those of the scale: a number, or a list."""

    def student(self, setting: str) -> str:
        """The student that a setting changes, as experiment/variant."""
        return self.settings[setting].of or self.of

    def reference(self, setting: str) -> str:
        """The setting that a setting is compared with; itself, if it is the first one."""
        return self.settings[setting].against or next(iter(self.settings))

    @model_validator(mode="after")
    def _compares_what_is_there(self):
        for name, setting in self.settings.items():
            if setting.against is not None and (setting.against == name or setting.against not in self.settings):
                raise ValueError(f"settings.{name}.against: {setting.against} is not another setting; there are {', '.join(self.settings)}")
        return self


Experiment = Annotated[
    TeacherExperiment | StudentExperiment | TransferExperiment | AblationExperiment | DetectionExperiment, Field(discriminator="kind")
]


def _complete_or_extends(schema: dict[str, Any]) -> None:
    """A file that extends another may leave out what the other has."""
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["extends"]}]


class Scale(Config):
    """Scale: the sizes of everything, in the only file that differs between a laptop and a cluster."""

    model_config = ConfigDict(json_schema_extra=_complete_or_extends)

    title: str
    extends: str | None = None
    """Scale that this one extends: fields given here replace its fields."""
    experiments: tuple[str, ...]
    """The study: experiments, or single variants as experiment/variant."""
    profiles: tuple[Profile, ...]
    """Compat profiles in which every experiment is run."""
    seeds: Seeds
    """Seeds of each student: a number, or a list. All share the teacher."""
    seeds_per_job: PositiveInt = 1
    """Seeds that one job computes in sequence; use more than one if starting a job costs more than its work. Results and keys do
    not depend on it."""
    modules_per_job: PositiveInt = 1
    """Modules of one student that one job distils in lock step, sharing batches and meta model; results and keys do not depend on it."""
    threads: PositiveInt
    """CPU threads of each job. It is part of every key, because sums depend on it in the last bit."""
    checkpoint_minutes: PositiveFloat = 5.0
    """Time between two checkpoints of a training; results and keys do not depend on it."""
    checkpoint_updates: PositiveInt | None = None
    """Updates between two checkpoints; none: only time decides."""
    weak_below: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """IID accuracy (share) by family of students, below which a seed counts as weak; the verdict board names such seeds."""
    data: dict[str, str] = {}
    """Substitutes for the data sets of the experiments, both as name@size."""
    models: dict[str, dict] = {}
    """Changes to architectures, by name."""
    recipes: dict[str, dict] = {}
    """Changes to recipes, by name."""
    detectors: dict[str, dict] = {}
    """Changes to detectors, by name."""
    detection_recipes: dict[str, dict] = {}
    """Changes to recipes of detectors, by name."""
    experiment_changes: dict[str, dict] = {}
    """Changes to experiments, by name."""


CodeRule = Literal["named", "strict"]


class Settings(Config):
    """``config/config.yaml``: what the workflow runs."""

    scale: str = "small"
    """File in ``config/scales``."""
    experiments: tuple[str, ...] = ()
    """Experiments to run instead of the scale's study; none: the study."""
    overrides: dict = {}
    """Changes to models, recipes, experiments (``experiment_changes``) or the scale's own fields, in the form of a scale file."""
    container: str = "containers/m2mkd-cpu.sif"
    """Image that jobs run in with ``--use-singularity``: a .sif, ``docker-archive:FILE``, ``oci-archive:FILE``, or a URL that ends in
    @sha256:DIGEST; none: the host."""
    binds: tuple[str, ...] = ()
    """Folders outside the project that are bound into the image, as folder, or folder:target[:ro]."""
    tracking_uri: str | None = None
    """MLflow server or database that jobs mirror to while they train, and that holds the study afterwards; ``MLFLOW_TRACKING_URI``
    overrides it. None: ``results/mlflow.db``, filled at the end."""
    code: CodeRule = "named"
    """Treatment of finished runs that other code computed: ``named`` lists them, ``strict`` computes them again."""


class Catalogue(Config):
    """The shared building blocks that experiments refer to by name."""

    models: dict[Name, Model]
    recipes: dict[Name, Recipe]
    detectors: dict[Name, dict[str, Any]]
    """Each names its backbone among the models. They are checked for fit only when a detector is requested, because a scale may change the
    backbone in ways that no detector supports."""
    detection_recipes: dict[Name, DetectionRecipe]
