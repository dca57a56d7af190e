"""Runs, and the rows of the tables that they serve."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from m2mkd.config.compat import Profile
from m2mkd.study.keys import run_key
from m2mkd.study.phase import Phase


@dataclass(frozen=True)
class Run:
    """Node of the graph: a phase with everything that decides its result, for one seed unless all seeds share it."""

    config: Phase
    upstream: dict[str, tuple[str, ...]]
    """Ids of the runs that it builds on, by role."""
    users: set[str] = field(default_factory=set, compare=False)
    """Experiments that need it."""

    @property
    def phase(self) -> str:
        return self.config.name()

    @cached_property
    def key(self) -> str:
        return run_key(self.config.FORMAT, **self.content)

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.key}"

    @property
    def seed(self) -> int | None:
        """Seed; none if all seeds share it."""
        return getattr(self.config, "seed", None)

    @property
    def content(self) -> dict[str, Any]:
        """Input of its key, besides its phase's format: ``config`` and ``upstream`` as plain values."""
        upstream = {role: list(ids) for role, ids in self.upstream.items()}
        return {"config": self.config.model_dump(mode="json"), "upstream": upstream}

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of the runs that it builds on, whatever their role."""
        return tuple(run_id for ids in self.upstream.values() for run_id in ids)

    @property
    def what(self) -> str:
        """Short description that distinguishes it from the other runs of its phase."""
        config: Any = self.config
        model = getattr(config, "student", None) or getattr(config, "model", None)
        words = [model.family] if model is not None else []
        if getattr(config, "index", None) is not None:
            words.append(f"module {config.index}")
        words += [str(value) for name in ("prior", "init") if (value := getattr(config, name, None))]
        if self.phase == "train_student" and config.teacher is not None:
            words.append("pure KD")
        return " ".join(words)


class RowName(NamedTuple):
    """A row of the tables by name."""

    experiment: str
    variant: str
    profile: Profile

    def __str__(self) -> str:
        return f"{self.experiment}/{self.variant} ({self.profile})"


@dataclass(frozen=True)
class Row:
    """Row of the tables: a variant of an experiment in a compat profile, or a teacher."""

    experiment: str
    variant: str
    profile: Profile
    trained: tuple[str, ...]
    """Runs that trained it, one per seed; a single one for a teacher or for imported weights."""
    measured: tuple[str, ...]
    """Runs that hold its accuracies, one per seed; a single one for a teacher."""

    @property
    def name(self) -> RowName:
        return RowName(self.experiment, self.variant, self.profile)
