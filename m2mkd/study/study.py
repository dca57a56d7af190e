"""The graph of runs: what there is to compute, under which key, and which rows of the tables it serves."""

from dataclasses import dataclass, field
from functools import cached_property

from m2mkd.config.compat import Profile
from m2mkd.config.experiment import Scale
from m2mkd.errors import InputError
from m2mkd.study.phases import Phase, digest, run_key

RESULTS_FORMAT = 2
"""Version of tables and report; raising it compiles them anew."""


@dataclass(frozen=True)
class Run:
    """One node of the graph: a phase with everything that decides its result."""

    config: Phase
    upstream: dict[str, tuple[str, ...]]
    """Ids of the runs that it builds on, by role."""
    users: set[str] = field(default_factory=set, compare=False)
    """Experiments that need it."""

    @property
    def phase(self) -> str:
        return self.config.phase  # type: ignore[attr-defined]

    @cached_property
    def key(self) -> str:
        return run_key(self.config, self.upstream)

    @property
    def upstream_lists(self) -> dict[str, list[str]]:
        """The same ids as plain lists, for files."""
        return {role: list(ids) for role, ids in self.upstream.items()}

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.key}"


@dataclass(frozen=True)
class Row:
    """One row of the tables: a variant of an experiment in a compat profile, or a teacher."""

    experiment: str
    variant: str
    profile: Profile
    trained: tuple[str, ...]
    """Runs that trained it, one a batch of replicates."""
    measured: tuple[str, ...]
    """Runs that hold its accuracies, one a batch of replicates."""


@dataclass
class Study:
    """Every run of the chosen experiments at a scale."""

    scale_name: str
    scale: Scale
    ablations: bool = False
    """Whether the scale's ablations are part of it."""
    runs: dict[str, Run] = field(default_factory=dict)
    """By id, upstream before downstream."""
    rows: list[Row] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Digest of all rows with the runs that they stand on: what the tables are about."""
        return digest([RESULTS_FORMAT, *[[row.experiment, row.variant, row.profile, row.trained, row.measured] for row in self.rows]])

    @property
    def root(self) -> str:
        """Folder of everything that is written at the scale."""
        return f"results/{self.scale_name}"

    @property
    def pages(self) -> str:
        """Folder of what is made of the runs: tables and report."""
        return f"{self.root}/ablations" if self.ablations else self.root

    def folder(self, run_id: str) -> str:
        """Folder of one run."""
        return f"{self.root}/runs/{run_id}"

    def outputs(self, run: Run, slot: int) -> list[str]:
        """Files that a run publishes for one of its replicates."""
        return [f"{self.folder(run.id)}/{slot}/{name}" for name in run.config.OUTPUTS]

    def slot_of(self, upstream: Run, slot: int) -> int:
        """Slot of an upstream run that the given slot of a run builds on: its own replicate's, or the shared one."""
        return slot if len(upstream.config.replicates) > 1 else 0

    def find(self, run_id: str) -> Run:
        """The run of that id, which may be shortened.

        Raises
        ------
        InputError
            If no run, or more than one, begins so.
        """
        found = [run for name, run in self.runs.items() if name.startswith(run_id)]
        if len(found) == 1:
            return found[0]
        problem = "is not a run of this study" if not found else f"fits {len(found)} runs"
        raise InputError(f"{run_id}: {problem} at scale {self.scale_name}; 'm2mkd runs list' shows them")
