"""Outline of a study: what each phase computes, how often, on what and for how long, in one line for each kind of run."""

from collections import Counter
from typing import Any, NamedTuple

from m2mkd.study.phase import PHASES, Phase
from m2mkd.study.study import Study


class OutlineLine(NamedTuple):
    """Runs of a phase that differ in seed, module or profile, and in nothing that is shown here."""

    phase: str
    runs: int
    data: str
    """Data sets that it reads, as name@size."""
    length: str
    """Epochs or updates, with the batch."""
    optimiser: str


def outline(study: Study) -> list[OutlineLine]:
    """Every kind of run of a study, in the order of the flow."""
    counts = Counter((run.phase, *_kind(run.config)) for run in study.runs.values())
    order = list(PHASES)
    return [OutlineLine(kind[0], count, *kind[1:]) for kind, count in sorted(counts.items(), key=lambda item: order.index(item[0][0]))]


def _kind(config: Phase) -> tuple[str, str, str]:
    data = ", ".join(str(one) for one in config.data_sets)
    recipe: Any = getattr(config, "recipe", None)
    if recipe is None:
        return data, "", ""
    times = f"{recipe.updates:,} updates" if hasattr(recipe, "updates") else f"{recipe.epochs} epochs"
    return data, f"{times}, batch {recipe.batch_size}", f"{recipe.optimizer}, lr {recipe.lr:g}, {recipe.precision}"
