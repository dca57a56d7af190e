"""What people call variants, families of models, metrics and the arms of a comparison."""

FAMILIES = {"vmoe": "V-MoE", "nac": "NAC", "vit": "ViT"}
METRIC_LABELS = {"iid_top1": "IID", "ood_top1": "OOD", "graph_density": "density of the graph"}
VARIANTS = {"m2mkd": "m2mKD", "pure_kd": "pure KD", "end_to_end": "end to end"}
EXPERIMENT_LABELS = {"labels_only": "labels only", "equal_compute": "end to end with equal compute"}
"""What an arm is called that another experiment has, by a part of that experiment's name."""


def variant_label(variant: str) -> str:
    """A variant as people call it."""
    stem = next((known for known in VARIANTS if variant == known or variant.startswith(f"{known}_")), None)
    return f"{VARIANTS[stem]}{variant[len(stem) :].replace('_', ' ')}" if stem else variant.replace("_", " ")


def arm_label(arm: str) -> str:
    """An arm of a claim's comparison, ``variant`` or ``experiment/variant``, as people call it."""
    experiment, _, variant = arm.rpartition("/")
    return next((name for part, name in EXPERIMENT_LABELS.items() if part in experiment), variant_label(variant))


def family_label(family: str) -> str:
    """A family of models, or several joined by ``and``, as people call them."""
    return " and ".join(FAMILIES.get(one, one) for one in family.split(" and "))


def enumerated(words: list[str]) -> str:
    """Words as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1] if words else "")))
