"""In what a study differs from its scale's file."""

from typing import Any

from m2mkd.config import load
from m2mkd.study.study import Study

HARMLESS = {"title", "experiments", "profiles", "replicates", "replicates_per_job", "modules_per_job", "threads"}
"""Fields of a scale that choose what is run, how often and in which jobs, but change no single result beyond its last bits."""


def overrides_of(study: Study) -> dict[str, Any]:
    """Fields in which the study's scale differs from its file."""
    plain = load.scale(study.scale_name, {}).model_dump(mode="json")
    return _changes(plain, study.scale.model_dump(mode="json"))


def changed_science(study: Study) -> list[str]:
    """Fields that make the study another than the one its scale's file describes, as dotted names with their values."""
    return load.as_assignments({name: value for name, value in overrides_of(study).items() if name not in HARMLESS})


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    changes = {}
    for name, value in after.items():
        old = before.get(name)
        if value != old:
            changes[name] = _changes(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return changes
