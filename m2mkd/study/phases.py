"""The resolved configuration of every run: exactly what decides its result, and so its key.

Devices, workers, paths and tracking are not in here. A change in the meaning of a phase raises its ``FORMAT``.
"""

import hashlib
import json
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from m2mkd.config.base import Config
from m2mkd.config.compat import Value
from m2mkd.config.models import Model, Prior, StudentConfig, ViTConfig
from m2mkd.config.recipe import Distillation, Recipe

WEIGHTS, CURVES, METRICS, RECORD = "model.safetensors", "metrics.jsonl", "metrics.json", "run.json"
TRAINED = (WEIGHTS, CURVES, METRICS, RECORD)


class Data(Config):
    """A prepared data set as one run sees it."""

    name: str
    image_size: PositiveInt
    classes: PositiveInt
    key: str
    """Digest of the source's digest, the preparation and the image size."""

    def __str__(self) -> str:
        return f"{self.name}@{self.image_size}"

    @property
    def folder(self) -> str:
        """Where the prepared set lies, relative to the root."""
        return f"data/packed/{self.name}@{self.image_size}/{self.key}"


class Phase(Config):
    """What every run has."""

    FORMAT: ClassVar[int] = 2
    OUTPUTS: ClassVar[tuple[str, ...]] = TRAINED
    COMPUTES: ClassVar[bool] = True
    """Whether it needs torch and a device; moving tensors from file to file does not."""
    DIVISIBLE: ClassVar[bool] = False
    """Whether several processes may share it."""
    threads: PositiveInt
    replicates: tuple[NonNegativeInt, ...] = (0,)
    """Seeds that the run trains, one output folder (slot) each."""
    compat: dict[str, Value] = {}
    """Switches that matter here."""

    @property
    def data_sets(self) -> tuple[Data, ...]:
        """Prepared sets that the run reads."""
        return tuple(value for value in (getattr(self, "data", None),) if value is not None)

    @property
    def files(self) -> tuple[str, ...]:
        """Other files that the run reads, whose digests are part of its configuration."""
        return ()


class ImportWeights(Phase):
    """Weights of others in the place of those that a phase would have trained."""

    OUTPUTS: ClassVar[tuple[str, ...]] = (WEIGHTS, RECORD)
    COMPUTES: ClassVar[bool] = False
    phase: Literal["import_weights"] = "import_weights"
    model: Model
    """What is wanted; the file must hold the same."""
    index: NonNegativeInt | None
    """Which module of it; none: the whole network."""
    image_size: PositiveInt
    classes: PositiveInt
    stitch_width: PositiveInt | None
    """Width outside the stitch layers, where there are any."""
    sha256: str
    """Of the file."""
    file: str = Field("", exclude=True)
    """Where the file lies; its content counts, not its place."""

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


class PretrainMeta(Phase):
    """PT: the meta model, end to end, on labels."""

    DIVISIBLE: ClassVar[bool] = True
    phase: Literal["pretrain_meta"] = "pretrain_meta"
    model: ViTConfig
    data: Data
    recipe: Recipe


class IncubateModule(Phase):
    """MT: one teacher module in the place of its meta stage, the rest of the meta model frozen."""

    DIVISIBLE: ClassVar[bool] = True
    phase: Literal["incubate_module"] = "incubate_module"
    meta: ViTConfig
    model: ViTConfig
    index: NonNegativeInt
    data: Data
    recipe: Recipe


class AssembleTeacher(Phase):
    """FT: the incubated modules in one network, fine-tuned on labels."""

    DIVISIBLE: ClassVar[bool] = True
    phase: Literal["assemble_teacher"] = "assemble_teacher"
    model: ViTConfig
    data: Data
    recipe: Recipe


class SplitTeacher(Phase):
    """One stage of the fine-tuned teacher as a file of its own."""

    OUTPUTS: ClassVar[tuple[str, ...]] = (WEIGHTS, RECORD)
    COMPUTES: ClassVar[bool] = False
    phase: Literal["split_teacher"] = "split_teacher"
    model: ViTConfig
    index: NonNegativeInt


class MeasureHybrid(Phase):
    """Accuracy of the meta model with each of the teacher's modules in its place, before any student is taught by them."""

    OUTPUTS: ClassVar[tuple[str, ...]] = (METRICS, RECORD)
    phase: Literal["measure_hybrid"] = "measure_hybrid"
    meta: ViTConfig
    model: ViTConfig
    data: Data


class DistillModule(Phase):
    """m2mKD: one student module in the place of the meta stage, taught by labels and by the teacher module there."""

    DIVISIBLE: ClassVar[bool] = True
    phase: Literal["distill_module"] = "distill_module"
    student: StudentConfig
    index: NonNegativeInt
    meta: ViTConfig
    teacher: ViTConfig
    data: Data
    recipe: Recipe
    loss: Distillation


class TrainStudent(Phase):
    """The assembled student, end to end: from scratch, from distilled modules, or taught by the whole teacher."""

    DIVISIBLE: ClassVar[bool] = True
    phase: Literal["train_student"] = "train_student"
    student: StudentConfig
    prior: Prior | None
    data: Data
    recipe: Recipe
    init: Literal["scratch", "modules"]
    module_data: Data | None
    """Data that the modules were distilled on, where ``init`` is modules; decides which tensors fit."""
    load_modules: tuple[NonNegativeInt, ...] | None = None
    """Numbers of the modules that are loaded, in their order; none: all."""
    stitch_width: PositiveInt | None
    """Width of the meta model, where a V-MoE keeps its stitch layers."""
    distillation: Distillation | None
    teacher: ViTConfig | None
    """The whole teacher, where it is distilled from."""


class TrainProbe(Phase):
    """Few-shot: a new head on a frozen student."""

    FORMAT: ClassVar[int] = 3
    phase: Literal["train_probe"] = "train_probe"
    student: StudentConfig
    prior: Prior | None
    student_data: Data
    """Data that the student was trained on."""
    stitch_width: PositiveInt | None
    data: Data
    way: PositiveInt
    shots: PositiveInt
    episodes: PositiveInt = 1
    """Episodes over which the accuracy is averaged."""
    recipe: Recipe


class Evaluate(Phase):
    """Accuracy of a student on its validation set and on out-of-distribution sets."""

    FORMAT: ClassVar[int] = 3
    OUTPUTS: ClassVar[tuple[str, ...]] = (METRICS, RECORD)
    phase: Literal["evaluate"] = "evaluate"
    student: StudentConfig
    prior: Prior | None
    stitch_width: PositiveInt | None
    data: Data
    ood: tuple[Data, ...]
    batch_size: PositiveInt | None = None
    """Global batch that the student was trained with; given only in profile released, where the batches of validation matter."""

    @property
    def data_sets(self) -> tuple[Data, ...]:
        return (self.data, *self.ood)


class EvaluateTeacher(Phase):
    """Accuracy of the assembled teacher on its validation set."""

    OUTPUTS: ClassVar[tuple[str, ...]] = (METRICS, RECORD)
    phase: Literal["evaluate_teacher"] = "evaluate_teacher"
    model: ViTConfig
    data: Data
    batch_size: PositiveInt | None = None
    """As in :class:`Evaluate`, of the teacher."""


PHASES: dict[str, type[Phase]] = {
    cls.model_fields["phase"].default: cls
    for cls in (
        ImportWeights,
        PretrainMeta,
        IncubateModule,
        AssembleTeacher,
        SplitTeacher,
        EvaluateTeacher,
        MeasureHybrid,
        DistillModule,
        TrainStudent,
        TrainProbe,
        Evaluate,
    )
}
"""Every phase by name, in the order of the flow."""

AnyPhase = Annotated[
    ImportWeights
    | PretrainMeta
    | IncubateModule
    | AssembleTeacher
    | SplitTeacher
    | EvaluateTeacher
    | MeasureHybrid
    | DistillModule
    | TrainStudent
    | TrainProbe
    | Evaluate,
    Field(discriminator="phase"),
]


def digest(value: object) -> str:
    """First 16 hexadecimal digits of the sha256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_key(config: Phase, upstream: dict[str, tuple[str, ...]]) -> str:
    """Key of a run: its configuration, its phase's format version, and the runs that it builds on.

    Parameters
    ----------
    config
        Resolved configuration; holds the keys of its data sets.
    upstream
        Run ids (``phase/key``) by role.
    """
    return digest({"format": config.FORMAT, "config": config.model_dump(mode="json"), "upstream": upstream})
