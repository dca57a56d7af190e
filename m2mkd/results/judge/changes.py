"""In what a study differs from its scale's file."""

from typing import Any

from m2mkd.config import load
from m2mkd.study.study import Study

FIELDS_WITHOUT_EFFECT = {"title", "experiments", "profiles", "seeds", "seeds_per_job", "modules_per_job", "threads"}
"""Fields of a scale that choose what is run, how often and in which jobs, but change no single result beyond its last bits."""


def changed_science(study: Study) -> list[str]:
    """Fields that make the study another than the one its scale's file describes, as dotted names with their values."""
    changed = {name: value for name, value in study.overrides.items() if name not in FIELDS_WITHOUT_EFFECT}
    if isinstance(changes := changed.pop("experiment_changes", None), dict):
        changed["experiment_changes"] = _without_seeds(changes)
    return load.as_assignments(changed)


def _without_seeds(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of experiments without those that only ask for other seeds, of the experiment or of one of its variants."""
    return {name: _without_seeds(value) if isinstance(value, dict) else value for name, value in changes.items() if name != "seeds"}
