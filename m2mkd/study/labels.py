"""Display names of variants, families of models, metrics and the arms of a comparison."""

from m2mkd.config.registered_families import TEACHERS, family_named, student_families

METRIC_LABELS = {"iid_top1": "IID", "ood_top1": "OOD", "graph_density": "density of the graph"}
VARIANTS = {"m2mkd": "m2mKD", "pure_kd": "pure KD", "end_to_end": "end to end"}
EXPERIMENT_LABELS = {"labels_only": "labels only", "equal_compute": "end to end with equal compute"}
"""Display names of arms of other experiments, by a part of the experiment's name."""


def variant_label(variant: str) -> str:
    """Display name of a variant."""
    stem = next((known for known in VARIANTS if variant == known or variant.startswith(f"{known}_")), None)
    return f"{VARIANTS[stem]}{variant[len(stem) :].replace('_', ' ')}" if stem else variant.replace("_", " ")


def arm_label(arm: str) -> str:
    """Display name of an arm of a claim's comparison, ``variant`` or ``experiment/variant``."""
    experiment, _, variant = arm.rpartition("/")
    return next((name for part, name in EXPERIMENT_LABELS.items() if part in experiment), variant_label(variant))


def family_label(family: str) -> str:
    """Display name of a family of models, or of several joined by ``and``; of one that is not installed, its name."""
    known = {*TEACHERS, *student_families()}
    return " and ".join(family_named(one).LABEL if one in known else one for one in family.split(" and "))


def enumerated(words: list[str]) -> str:
    """Join words as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1] if words else "")))
