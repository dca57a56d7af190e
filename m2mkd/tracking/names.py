"""Names of rows and runs as people read them: they sort by arm, model and seed, and no two rows of a study share one."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from m2mkd.study.labels import EXPERIMENT_LABELS, VARIANTS, arm_label, family_label
from m2mkd.study.phase import Phase
from m2mkd.study.run import RowName, Run

PRIORS = {
    "scale_free": "Scale-Free",
    "planted_partition": "Planted-Partition",
    "ring_of_cliques": "Ring-of-Cliques",
    "erdos_renyi": "Erdos-Renyi",
}
"""Graph priors of a NAC as their papers write them."""
TEACHER = "teacher"
"""Variant of the row of a teacher."""
DETECTOR = "V-MoE detector"
PHASE_WORDS = {
    "import_weights": "imported weights",
    "pretrain_meta": "meta model",
    "incubate_module": "incubation",
    "assemble_teacher": "assembly",
    "split_teacher": "split",
    "evaluate_teacher": "evaluation",
    "measure_hybrid": "hybrids",
    "distill_module": "distillation",
    "train_probe": "probe",
    "evaluate": "evaluation",
    "evaluate_detector": "evaluation",
}
"""Phases in a run's name; the training of a row's student or detector has the row's name and its seed alone."""


def row_label(row_name: RowName, config: Phase) -> str:
    """Name of a row, such as ``m2mKD, V-MoE``.

    Parameters
    ----------
    row_name
        The row.
    config
        Configuration of a run that belongs to it; names its model.
    """
    experiment, variant, profile = row_name
    source, _, chosen = variant.rpartition("/")
    words = [TEACHER if variant == TEACHER else arm_label(f"{source or experiment}/{chosen}"), model_label(config)]
    if source or not (_names_an_arm(row_name) or words[-1] == DETECTOR):
        words.append(experiment)  # a student measured again, or a setting: its experiment tells what it is about
    return ", ".join([*words, *(["released"] if profile == "released" else [])])


def _names_an_arm(row_name: RowName) -> bool:
    stem = re.sub(r"_\d+$", "", row_name.variant)  # end_to_end_300 is another length of the same arm
    return stem in (TEACHER, *VARIANTS) or any(part in row_name.experiment for part in EXPERIMENT_LABELS)


def model_label(config: Phase) -> str:
    """Family of a run's model, with the graph prior of a NAC."""
    settings: Any = config
    model = getattr(settings, "student", None) or settings.model
    if model.family == "detector":
        return DETECTOR
    family, prior = family_label(model.family), getattr(settings, "prior", None)
    return f"{family} {PRIORS[prior]}" if prior else family


def distinct(labels: Mapping[RowName, str]) -> dict[RowName, str]:
    """Labels of the rows of a study; those that several rows would share name the experiment too."""
    uses = Counter(labels.values())
    return {row_name: label if uses[label] == 1 else f"{label} ({row_name.experiment})" for row_name, label in labels.items()}


def run_label(label: str, run: Run) -> str:
    """Name of a run below a row of that label, such as ``m2mKD, V-MoE, seed 0, distillation of module 1``."""
    index, word = getattr(run.config, "index", None), PHASE_WORDS.get(run.phase, "")
    seed = [] if run.seed is None else [f"seed {run.seed}"]
    part = f"{word} of module {index}" if word and index is not None else word
    return ", ".join([label, *seed, *([part] if part else [])])
