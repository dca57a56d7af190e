"""Differences between a study and its scale's file, and the runs that they do not affect."""

from collections.abc import Sequence
from typing import Any

from m2mkd.config import load
from m2mkd.config.compat import Profile
from m2mkd.errors import InputError
from m2mkd.study.plan import build_study
from m2mkd.study.run import RowName
from m2mkd.study.study import Study

FIELDS_WITHOUT_EFFECT = {"title", "experiments", "profiles", "seeds", "seeds_per_job", "modules_per_job", "threads", "weak_below"}
"""Fields of a scale that choose runs, seeds and jobs, but do not change a single result beyond its last bits."""


def changed_science(study: Study) -> list[str]:
    """Fields in which the study differs from its scale's file, as dotted names with their values."""
    changed = {name: value for name, value in study.overrides.items() if name not in FIELDS_WITHOUT_EFFECT}
    if isinstance(changes := changed.pop("experiment_changes", None), dict):
        changed["experiment_changes"] = _seeds_alone(changes, kept=False)
    return load.as_assignments(changed)


def _seeds_alone(changes: dict[str, Any], *, kept: bool) -> dict[str, Any]:
    """Changes of experiments without those that only set the seeds of an experiment or variant; or only those."""
    found = {name: _seeds_alone(value, kept=kept) for name, value in changes.items() if isinstance(value, dict)}
    plain = {name: value for name, value in changes.items() if not isinstance(value, dict) and (name == "seeds") == kept}
    return plain | {name: value for name, value in found.items() if value or not kept}


class AsPublished:
    """Check of the rows of a study that its changes leave as in its scale's file."""

    def __init__(self, study: Study):
        self.study, self.changes = study, changed_science(study)

    def has(self, names: Sequence[str], profile: Profile) -> bool:
        """True if all runs behind those rows, as far as the study has them, have the same keys as without the changes.

        A run's key is a digest of all that it builds on, too.

        Parameters
        ----------
        names
            Rows as experiment/variant.
        profile
            Compat profile of the rows.
        """
        here = {row.name: row.measured for row in self.study.rows}
        named = [RowName(experiment, variant, profile) for experiment, _, variant in (one.partition("/") for one in names)]
        wanted = [name for name in named if name in here]
        if not self.changes or not wanted:
            return True
        kept = {name: value for name, value in self.study.overrides.items() if name in FIELDS_WITHOUT_EFFECT}
        kept["experiment_changes"] = _seeds_alone(self.study.overrides.get("experiment_changes", {}), kept=True)
        try:
            planned = build_study(load.settings({"scale": self.study.scale_name, "experiments": list(names), "overrides": kept}))
        except InputError:
            return False  # one of the rows exists only because of the changes
        published = {row.name: row.measured for row in planned.rows}
        return all(here[name] == published.get(name) for name in wanted)
