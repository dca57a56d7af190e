"""Work of each phase: the parts of networks that are trained, passed through or only run forward, and the number of images."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import singledispatch

from m2mkd.config import load
from m2mkd.config.detection import DetectorSwitches
from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.family import Architecture, Sizes
from m2mkd.config.recipe import Recipe
from m2mkd.config.registered_families import family_of, student_family
from m2mkd.errors import InputError
from m2mkd.planning import detector, transformer
from m2mkd.planning.circuit import Count
from m2mkd.planning.counted import counted_module, counted_student
from m2mkd.planning.layer_cost import LayerCost, Term
from m2mkd.study.data import Data
from m2mkd.study.phase import DETECTION_BATCH, EVAL_BATCH, Phase
from m2mkd.study.phases import (
    AssembleTeacher,
    DistillModule,
    Evaluate,
    EvaluateDetector,
    EvaluateTeacher,
    ImportWeights,
    IncubateModule,
    MeasureHybrid,
    PretrainMeta,
    SplitTeacher,
    TrainDetector,
    TrainProbe,
    TrainStudent,
)

NOTHING = LayerCost()


@dataclass(frozen=True)
class Work:
    """Work of one run."""

    terms: tuple[Term, ...] = ()
    """Terms of one image in training."""
    images: int = 0
    """Views of images trained on, over all epochs."""
    recipe: Recipe | DetectionRecipe | None = None
    batch: int = 0
    """Global batch of an update."""
    measured: tuple[LayerCost, ...] = ()
    """Terms of one image in measuring."""
    measured_images: int = 0
    """Images measured, over all epochs and sets."""
    measured_batch: int = EVAL_BATCH
    """Images measured at a time."""
    image_size: int = 0
    published: LayerCost = NOTHING
    """Terms whose weights the run writes."""


def split_images(data: Data, split: str) -> int:
    """Number of images of a split of a registered data set.

    Raises
    ------
    InputError
        If the registry does not give the number.
    """
    count = getattr(load.datasets()[data.name], f"{split}_images")
    if count is None:
        raise InputError(f"config/datasets.yaml: {data.name}.{split}_images is missing; add its number of images, which costs depend on")
    return count


@singledispatch
def work_of(config: Phase, count: Count) -> Work:
    """Work of a run.

    Parameters
    ----------
    config
        Resolved configuration of the run.
    count
        Way to count NACs, see `m2mkd.planning.circuit`.
    """
    raise NotImplementedError(f"{type(config).__name__}: its work is not planned yet")


def _trained(terms: list[Term], data: Data, recipe: Recipe, measured: list[LayerCost], published: LayerCost) -> Work:
    images = round(recipe.train_share * split_images(data, "train")) // recipe.batch_size * recipe.batch_size
    passes = -(-recipe.epochs // recipe.eval_every)
    return Work(
        terms=tuple(terms),
        images=recipe.epochs * images,
        recipe=recipe,
        batch=recipe.batch_size,
        measured=tuple(measured),
        measured_images=passes * split_images(data, "val"),
        image_size=data.image_size,
        published=published,
    )


@work_of.register
def _(config: PretrainMeta, count: Count) -> Work:
    meta = transformer.network(config.model, config.data.image_size, config.data.classes)
    return _trained([Term("meta model", meta, "trained")], config.data, config.recipe, [meta], meta)


@work_of.register
def _(config: IncubateModule, count: Count) -> Work:
    size, classes, modules = config.data.image_size, config.data.classes, config.meta.modules
    before = transformer.stages(config.meta, range(config.index), size, classes)
    module = transformer.stage(config.model, config.index, size, classes)
    after = transformer.stages(config.meta, range(config.index + 1, modules), size, classes)
    terms = [Term("module", module, "trained"), Term("stages before", before, "no_grad"), Term("stages after", after, "frozen")]
    return _trained(terms, config.data, config.recipe, [before, module, after], module)


@work_of.register
def _(config: AssembleTeacher, count: Count) -> Work:
    teacher = transformer.network(config.model, config.data.image_size, config.data.classes)
    return _trained([Term("teacher", teacher, "trained")], config.data, config.recipe, [teacher], teacher)


def split_work(config: SplitTeacher, teacher: AssembleTeacher | ImportWeights) -> Work:
    """Work of cutting a module out of a teacher, whose image size and classes are not in the phase's own configuration."""
    size = teacher if isinstance(teacher, ImportWeights) else teacher.data
    return Work(published=transformer.stage(config.model, config.index, size.image_size, size.classes))


@work_of.register
def _(config: ImportWeights, count: Count) -> Work:
    sizes, width = Sizes(config.image_size, config.classes), config.stitch_width
    if config.index is not None:
        return Work(published=_module(config.model, config.index, sizes, stitch_width=width or 0, tokens=1, count=count))
    return Work(published=_whole_network(config.model, sizes, width, count, drawn=True))


@work_of.register
def _(config: MeasureHybrid, count: Count) -> Work:
    size, classes, modules = config.data.image_size, config.data.classes, config.meta.modules
    meta = [transformer.stage(config.meta, index, size, classes) for index in range(modules)]
    teacher = [transformer.stage(config.model, index, size, classes) for index in range(modules)]
    # Each hybrid has one module of the teacher, and all but one of the meta model's; the weights are counted once.
    hybrids = sum([*teacher, *(modules - 1) * meta], LayerCost())
    measured = replace(hybrids, parameters=sum(part.parameters for part in meta + teacher))
    return Work(measured=(measured,), measured_images=split_images(config.data, "val"), image_size=size)


@work_of.register
def _(config: EvaluateTeacher, count: Count) -> Work:
    teacher = transformer.network(config.model, config.data.image_size, config.data.classes)
    return Work(measured=(teacher,), measured_images=split_images(config.data, "val"), image_size=config.data.image_size)


@work_of.register
def _(config: DistillModule, count: Count) -> Work:
    size, classes, index, modules = config.data.image_size, config.data.classes, config.index, config.meta.modules
    before = transformer.stages(config.meta, range(index), size, classes)
    behind = range(index + 1, modules)
    tokens, sizes = transformer.tokens_of(config.meta, size), Sizes(size, classes)
    student = _module(config.student, index, sizes, stitch_width=config.meta.width, tokens=tokens, count=count)
    passed = student_family(config.student).passed_tokens(config.student, index, tokens)
    after = transformer.stages(config.meta, behind, size, classes, tokens=passed)
    terms = [Term("student module", student, "trained"), Term("stages before", before, "no_grad"), Term("stages after", after, "frozen")]
    if config.taught_by.needs_teacher:
        terms.append(Term("teacher module", transformer.stage(config.teacher, index, size, classes), "no_grad"))
        terms.append(Term("stages after it", transformer.stages(config.meta, behind, size, classes), "no_grad", again=True))
    return _trained(terms, config.data, config.recipe, [before, student, after], student)


def _whole_network(config: Architecture, sizes: Sizes, stitch_width: int | None, count: Count, *, drawn: bool) -> LayerCost:
    found: LayerCost | None = family_of(config).cost(config, sizes, stitch_width=stitch_width, count=count, drawn=drawn)
    return counted_student(config, sizes, stitch_width) if found is None else found


def _module(config: Architecture, index: int, sizes: Sizes, *, stitch_width: int, tokens: int, count: Count) -> LayerCost:
    family, between = student_family(config), {"stitch_width": stitch_width, "tokens": tokens}
    found: LayerCost | None = family.module_cost(config, index, sizes, **between, count=count)
    return counted_module(config, index, sizes, **between) if found is None else found


def _student(student: Architecture, data: Data, stitch_width: int | None, count: Count, *, drawn: bool) -> LayerCost:
    return _whole_network(student, Sizes(data.image_size, data.classes), stitch_width, count, drawn=drawn)


@work_of.register
def _(config: TrainStudent, count: Count) -> Work:
    student = _student(config.student, config.data, config.stitch_width, count, drawn=True)
    terms = [Term("student", student, "trained")]
    if config.teacher is not None:
        terms.append(Term("teacher", transformer.network(config.teacher, config.data.image_size, config.data.classes), "no_grad"))
    measured = _student(config.student, config.data, config.stitch_width, count, drawn=False)
    return _trained(terms, config.data, config.recipe, [measured], student)


@work_of.register
def _(config: TrainProbe, count: Count) -> Work:
    student = _student(config.student, config.student_data, config.stitch_width, count, drawn=True)
    width = student_family(config.student).feature_width(config.student)
    head = LayerCost(macs=width * config.way, parameters=(width + 1) * config.way)
    shots, recipe = config.way * config.shots, config.recipe
    return Work(
        terms=(Term("head", head, "trained"), Term("student", student, "no_grad")),
        images=recipe.epochs * shots,
        recipe=recipe,
        batch=shots,
        measured=(student, head),
        measured_images=-(-recipe.epochs // recipe.eval_every) * 3 * shots,
        image_size=config.student_data.image_size,
        published=head,
    )


@work_of.register
def _(config: Evaluate, count: Count) -> Work:
    student = _student(config.student, config.data, config.stitch_width, count, drawn=False)
    images = sum(split_images(data, "val") for data in config.data_sets)
    return Work(measured=(student,), measured_images=images, image_size=config.data.image_size)


def _whole(parts: Iterable[LayerCost]) -> LayerCost:
    return sum(parts, NOTHING)


@work_of.register
def _(config: TrainDetector, count: Count) -> Work:
    model, classes, switches, recipe = config.model, config.data.classes, DetectorSwitches.of(config.compat), config.recipe
    trained = detector.trained_parts(model, classes, switches, count)
    passes = recipe.passes(max(1, split_images(config.data, "train") // recipe.batch_size))
    return Work(
        terms=tuple(Term(name, part, "trained") for name, part in trained.items()),
        images=recipe.updates * recipe.batch_size,
        recipe=recipe,
        batch=recipe.batch_size,
        measured=(_whole(detector.measured_parts(model, classes, switches, count).values()),),
        measured_images=-(-passes // recipe.eval_every) * split_images(config.data, "val"),
        measured_batch=DETECTION_BATCH,
        image_size=model.image_size,
        published=_whole(trained.values()),
    )


@work_of.register
def _(config: EvaluateDetector, count: Count) -> Work:
    parts = detector.measured_parts(config.model, config.data.classes, DetectorSwitches.of(config.compat), count)
    return Work(
        measured=(_whole(parts.values()),),
        measured_images=split_images(config.data, "val"),
        measured_batch=DETECTION_BATCH,
        image_size=config.model.image_size,
    )
