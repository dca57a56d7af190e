"""Labelled images that each arm of a comparison learns from, in all its phases, the teacher's included."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from m2mkd.config import load
from m2mkd.config.recipe import Recipe
from m2mkd.study.phases import DistillModule, ImportWeights, TrainProbe
from m2mkd.study.run import Row, Run
from m2mkd.study.study import Study

UNKNOWN = "unknown (imported weights)"
"""Name for the images that imported weights were trained on."""
Learner = Literal["teacher", "modules", "student"]


@dataclass(frozen=True)
class Labelled:
    """Labelled images that one run trains on."""

    learner: Learner
    data: str
    """Name of the data set."""
    share: float
    """Share of its training images, in (0, 1]; a smaller share is part of a larger one."""
    images: int | None
    """Number of those images; none if the registry does not have it."""
    views: int | None
    """Images x epochs; an epoch leaves out an incomplete batch."""


def labelled_of(run: Run) -> Labelled | None:
    """Labelled images that a run trains on; none if it does not train on any."""
    config = run.config
    if isinstance(config, ImportWeights):
        return Labelled("teacher" if config.of_teacher else "student", UNKNOWN, 1.0, None, None)
    recipe, data = getattr(config, "recipe", None), getattr(config, "data", None)
    if not isinstance(recipe, Recipe) or data is None or isinstance(config, TrainProbe):
        return None
    learner: Learner = "teacher" if config.of_teacher else "modules" if isinstance(config, DistillModule) else "student"
    count = load.datasets()[data.name].train_images
    images = None if count is None else round(recipe.train_share * count)
    views = None if images is None else recipe.epochs * (images // recipe.batch_size * recipe.batch_size)
    return Labelled(learner, data.name, recipe.train_share, images, views)


def labelled_by_row(study: Study, row: Row) -> tuple[Labelled, ...]:
    """Labelled images that one seed of a row learned from, one entry for each run that trains, upstream first."""
    needed = study.with_upstream(row.trained[:1])
    found = (labelled_of(run) for run in study.runs.values() if run.id in needed)
    return tuple(one for one in found if one is not None)


def label_sets(labelled: Iterable[Labelled]) -> dict[str, float]:
    """Share of each data set that is seen with labels, by name."""
    shares: dict[str, float] = {}
    for one in labelled:
        shares[one.data] = max(one.share, shares.get(one.data, 0.0))
    return shares


def unequal_labels(study: Study, rows: Iterable[Row]) -> str:
    """Differences between the labelled images of rows, in words; empty if all have seen the same."""
    seen = {row.name: label_sets(labelled_by_row(study, row)) for row in rows}
    if all(other == one for one in seen.values() for other in seen.values()):
        return ""
    return "; ".join(f"{name.variant} {describe(sets)}" for name, sets in seen.items())


def unlike_first(study: Study, rows: Sequence[Row]) -> list[bool]:
    """True for each row that has seen other labelled images than the first row of its experiment and profile."""
    first: dict[tuple[str, str], dict[str, float]] = {}
    seen = [label_sets(labelled_by_row(study, row)) for row in rows]
    return [first.setdefault((row.experiment, row.profile), sets) != sets for row, sets in zip(rows, seen, strict=True)]


def describe(sets: dict[str, float]) -> str:
    """Data sets and shares in words, such as ``100 % of digits``."""
    return " and ".join(name if name == UNKNOWN else f"{100 * share:g} % of {name}" for name, share in sets.items()) or "nothing"
