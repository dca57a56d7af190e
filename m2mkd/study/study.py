"""Graph of the runs of a study, with their keys and the rows of the tables that they serve."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from m2mkd.config.experiment import Experiment, Scale
from m2mkd.config.seeds import seeds_of
from m2mkd.errors import InputError
from m2mkd.study.keys import digest
from m2mkd.study.run import Row, Run

RESULTS_FORMAT = 4
"""Version of tables and report; raising it compiles them again."""
RECEIPT = "study-{}.json"
"""Name of the file that lists the runs from which the tables next to it were compiled, with the key of the study."""


@dataclass
class Study:
    """Every run of the chosen experiments at a scale."""

    scale_name: str
    scale: Scale
    ablations: bool = False
    """True if the scale's ablations are part of it."""
    detection: bool = False
    """True if it consists of the scale's detectors; with ablations: true if they are part of it."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields in which its scale differs from the file of that name, in the shape of a scale file."""
    selected: tuple[str, ...] = ()
    """Requested experiments instead of the scale's own, as experiment or experiment/variant; none: the scale's."""
    experiments: dict[str, Experiment] = field(default_factory=dict)
    """Experiments at its scale that its rows name, and those that these name."""
    runs: dict[str, Run] = field(default_factory=dict)
    """By id, upstream before downstream."""
    rows: list[Row] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Digest of all rows with the runs that they are based on: the content of the tables."""
        return digest([RESULTS_FORMAT, *[[*row.name, row.trained, row.measured] for row in self.rows]])

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of each student; an experiment may have more."""
        return seeds_of(self.scale.seeds)

    @property
    def root(self) -> str:
        """Folder of everything that is written at the scale."""
        return scale_root(self.scale_name)

    @property
    def pages(self) -> str:
        """Folder of tables and report."""
        return f"{self.root}/ablations" if self.ablations else f"{self.root}/detection" if self.detection else self.root

    @property
    def receipt(self) -> str:
        """File that lists the runs from which the tables were compiled; its name has the key of the study."""
        return f"{self.pages}/tables/{RECEIPT.format(self.key)}"

    def folder(self, run_id: str) -> str:
        """Folder of one run."""
        return f"{self.root}/runs/{run_id}"

    def outputs(self, run: Run) -> list[str]:
        """Files that a run publishes."""
        return [f"{self.folder(run.id)}/{name}" for name in run.config.OUTPUTS]

    def with_upstream(self, run_ids: Iterable[str]) -> set[str]:
        """Given runs and all runs that they build on."""
        found: set[str] = set()
        waiting = list(run_ids)
        while waiting:
            run_id = waiting.pop()
            if run_id not in found:
                found.add(run_id)
                waiting += self.runs[run_id].parents
        return found

    def find(self, run_id: str) -> Run:
        """Run of that id, which may be shortened.

        Raises
        ------
        InputError
            If the id fits no run, or more than one.
        """
        found = [run for name, run in self.runs.items() if name.startswith(run_id)]
        if len(found) == 1:
            return found[0]
        problem = "is not a run of this study" if not found else f"fits {len(found)} runs"
        raise InputError(f"{run_id}: {problem} at scale {self.scale_name}; 'm2mkd runs list' shows them")


def scale_root(scale_name: str) -> str:
    """Folder of everything that is written at a scale."""
    return f"results/{scale_name}"
