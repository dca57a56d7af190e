"""Every phase, in the order of the flow."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from m2mkd.config.detection import DetectorConfig
from m2mkd.config.detection_input import DetectionInput
from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.experiment import Codes
from m2mkd.config.models import Model, Prior, StudentConfig, ViTConfig
from m2mkd.config.objective import Objective
from m2mkd.config.recipe import Distillation, Recipe
from m2mkd.config.registered_families import TEACHERS
from m2mkd.study.data import Data
from m2mkd.study.measurements import Measurement, accuracies, check_mean, check_renditions, number, precisions
from m2mkd.study.phase import LOGITS, MEASURED, RECORD, WEIGHTS, DvcStage, SeededPhase, TeacherPhase


class ImportWeights(TeacherPhase):
    """Imported weights instead of those that a phase would train."""

    OUTPUTS: ClassVar[tuple[str, ...]] = (WEIGHTS, RECORD)
    HEAD_NODE: ClassVar[bool] = True
    PRIORITY: ClassVar[int] = 7
    phase: Literal["import_weights"] = "import_weights"
    model: Model
    """Expected architecture; the file must hold the same."""
    index: NonNegativeInt | None
    """Number of its module; none: the whole network."""
    image_size: PositiveInt
    classes: PositiveInt
    stitch_width: PositiveInt | None
    """Width outside the stitch layers, where there are any."""
    sha256: str
    """Digest of the file."""
    file: str = Field("", exclude=True)
    """Path of the file, which is not part of the key; its content is."""

    @property
    def of_teacher(self) -> bool:
        return self.model.family in TEACHERS

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


class PretrainMeta(TeacherPhase):
    """PT: the meta model, end to end, on labels."""

    DIVISIBLE: ClassVar[bool] = True
    PRIORITY: ClassVar[int] = 7
    phase: Literal["pretrain_meta"] = "pretrain_meta"
    model: ViTConfig
    data: Data
    recipe: Recipe


class IncubateModule(TeacherPhase):
    """MT: train one teacher module instead of its meta stage, with the rest of the meta model frozen."""

    DIVISIBLE: ClassVar[bool] = True
    PRIORITY: ClassVar[int] = 6
    phase: Literal["incubate_module"] = "incubate_module"
    meta: ViTConfig
    model: ViTConfig
    index: NonNegativeInt
    data: Data
    recipe: Recipe


class AssembleTeacher(TeacherPhase):
    """FT: the incubated modules in one network, fine-tuned on labels."""

    DIVISIBLE: ClassVar[bool] = True
    PRIORITY: ClassVar[int] = 5
    phase: Literal["assemble_teacher"] = "assemble_teacher"
    model: ViTConfig
    data: Data
    recipe: Recipe


class SplitTeacher(TeacherPhase):
    """Stage of the fine-tuned teacher, as a separate file."""

    OUTPUTS: ClassVar[tuple[str, ...]] = (WEIGHTS, RECORD)
    HEAD_NODE: ClassVar[bool] = True
    PRIORITY: ClassVar[int] = 4
    phase: Literal["split_teacher"] = "split_teacher"
    model: ViTConfig
    index: NonNegativeInt


class EvaluateTeacher(TeacherPhase):
    """Accuracy of the assembled teacher on its validation set."""

    OUTPUTS: ClassVar[tuple[str, ...]] = MEASURED
    phase: Literal["evaluate_teacher"] = "evaluate_teacher"
    model: ViTConfig
    data: Data
    batch_size: PositiveInt | None = None
    """As in :class:`Evaluate`, of the teacher."""

    def measurements(self, metrics: Mapping[str, Any]) -> Iterator[Measurement]:
        return accuracies("iid", str(self.data), metrics)


class MeasureHybrid(TeacherPhase):
    """Accuracy of the meta model with each of its stages replaced by the teacher's module, before modules teach any student."""

    OUTPUTS: ClassVar[tuple[str, ...]] = MEASURED
    PRIORITY: ClassVar[int] = 8
    phase: Literal["measure_hybrid"] = "measure_hybrid"
    meta: ViTConfig
    model: ViTConfig
    data: Data

    def measurements(self, metrics: Mapping[str, Any]) -> Iterator[Measurement]:
        """Check the numbers; return none, because they have a separate table."""
        if list(metrics["hybrids"]) != [str(index) for index in range(self.model.modules)]:
            raise ValueError(f"hybrids are {', '.join(metrics['hybrids']) or 'none'}, but the teacher has {self.model.modules} modules")
        counts = {next(accuracies("iid", str(self.data), found)).count or 0 for found in (metrics["meta"], *metrics["hybrids"].values())}
        if len(counts) > 1:
            raise ValueError(f"hybrids were measured on {min(counts)} to {max(counts)} images, but all see the same")
        return iter(())


class DistillModule(SeededPhase):
    """m2mKD: one student module instead of the meta stage, taught by labels and by the corresponding teacher module."""

    DIVISIBLE: ClassVar[bool] = True
    STAGE: ClassVar[DvcStage] = "distill"
    PRIORITY: ClassVar[int] = 3
    LOCK_STEP: ClassVar[bool] = True
    phase: Literal["distill_module"] = "distill_module"
    student: StudentConfig
    index: NonNegativeInt
    meta: ViTConfig
    teacher: ViTConfig
    data: Data
    recipe: Recipe
    loss: Distillation | None = Field(None, exclude_if=lambda loss: loss is None)
    """Given unless ``objective`` is."""
    objective: Objective | None = Field(None, exclude_if=lambda objective: objective is None)

    @property
    def taught_by(self) -> Distillation | Objective:
        """The objective, or the loss where there is none."""
        return self.objective or self.loss  # type: ignore[return-value]

    @model_validator(mode="after")
    def _one_of_both(self):
        if (self.loss is None) == (self.objective is None):
            raise ValueError("a module is distilled by either a loss or an objective")
        return self


class TrainStudent(SeededPhase):
    """The assembled student, end to end: from scratch, from distilled modules, or taught by the whole teacher."""

    DIVISIBLE: ClassVar[bool] = True
    PRIORITY: ClassVar[int] = 2
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
    codes: Codes = Field("independent", exclude_if=lambda codes: codes == "independent")
    """Initialisation of a NAC's codes; not part of the key if they are drawn independently."""
    stitch_width: PositiveInt | None
    """Width of the meta model, if a V-MoE keeps its stitch layers."""
    distillation: Distillation | None
    objective: Objective | None = Field(None, exclude_if=lambda objective: objective is None)
    """Instead of ``distillation``; part of no key where there is none."""
    teacher: ViTConfig | None
    """Whole teacher, if it is distilled from."""


class TrainProbe(SeededPhase):
    """Few-shot: a new head on a frozen student."""

    FORMAT: ClassVar[int] = 3
    PRIORITY: ClassVar[int] = 1
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

    def measurements(self, metrics: Mapping[str, Any]) -> Iterator[Measurement]:
        if episodes := metrics.get("episodes"):
            check_mean("val_top1", metrics["val_top1"], episodes["val_top1"], self.episodes)
        for name in ("top1", "top5", "loss"):
            yield Measurement("fewshot", str(self.data), name, number(f"val_{name}", metrics[f"val_{name}"]))


class Evaluate(SeededPhase):
    """Accuracy of a student on its validation set and on out-of-distribution sets."""

    FORMAT: ClassVar[int] = 3
    OUTPUTS: ClassVar[tuple[str, ...]] = MEASURED
    KEPT: ClassVar[tuple[str, ...]] = (LOGITS,)
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

    def measurements(self, metrics: Mapping[str, Any]) -> Iterator[Measurement]:
        whole = self.compat.get("accuracy_meter") != "twice"
        yield from accuracies("iid", str(self.data), metrics, whole=whole)
        if graph := metrics.get("diagnostics", {}).get("graph"):
            yield Measurement("graph", str(self.data), "density", number("density", graph["density"]))
        for data in self.ood:
            found, name = metrics["ood"][data.name], str(data)
            check_renditions(found, whole=whole)
            yield from accuracies("ood", name, found, whole=whole)
            for count in ("classes", "left_out"):
                yield Measurement("ood", name, count, number(count, found[count]))
            for rendition, top1 in found["renditions"].items():
                yield Measurement("ood", name, "top1", number("top1", top1), rendition)


class TrainDetector(SeededPhase):
    """A detector and segmenter on a V-MoE, which starts from random weights or from a student's."""

    DIVISIBLE: ClassVar[bool] = True
    PRIORITY: ClassVar[int] = 1
    phase: Literal["train_detector"] = "train_detector"
    model: DetectorConfig
    data: Data
    recipe: DetectionRecipe
    init: Literal["scratch", "student"]


class EvaluateDetector(SeededPhase):
    """Average precision of a detector's boxes and masks on its validation set."""

    OUTPUTS: ClassVar[tuple[str, ...]] = MEASURED
    phase: Literal["evaluate_detector"] = "evaluate_detector"
    model: DetectorConfig
    data: Data
    input: DetectionInput
    """Image sizes of the recipe that it was trained by."""

    def measurements(self, metrics: Mapping[str, Any]) -> Iterator[Measurement]:
        return precisions(str(self.data), metrics)
