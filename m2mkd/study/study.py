"""The graph of runs of a study: what there is to compute, under which key, and which rows of the tables it serves."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from m2mkd.config.experiment import Experiment, Scale
from m2mkd.config.seeds import seeds_of
from m2mkd.errors import InputError
from m2mkd.study.keys import digest
from m2mkd.study.run import Row, Run

RESULTS_FORMAT = 4
"""Version of tables and report; raising it compiles them anew."""
RECEIPT = "study-{}.json"
"""Name of the file that says which runs the tables beside it were compiled from, with the key of the study."""


@dataclass
class Study:
    """Every run of the chosen experiments at a scale."""

    scale_name: str
    scale: Scale
    ablations: bool = False
    """Whether the scale's ablations are part of it."""
    detection: bool = False
    """Whether it is the detectors that the scale has beside its study; with ablations: whether they are part of it."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields in which its scale differs from the file of that name, in the shape of a scale file."""
    selected: tuple[str, ...] = ()
    """Experiments that were asked for instead of the scale's own, as experiment or experiment/variant; none: the scale's."""
    experiments: dict[str, Experiment] = field(default_factory=dict)
    """Those that its rows name, and those that these name, as they are at its scale."""
    runs: dict[str, Run] = field(default_factory=dict)
    """By id, upstream before downstream."""
    rows: list[Row] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Digest of all rows with the runs that they stand on: what the tables are about."""
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
        """Folder of what is made of the runs: tables and report."""
        return f"{self.root}/ablations" if self.ablations else f"{self.root}/detection" if self.detection else self.root

    @property
    def receipt(self) -> str:
        """File that says which runs the tables were compiled from, by its name of which study."""
        return f"{self.pages}/tables/{RECEIPT.format(self.key)}"

    def folder(self, run_id: str) -> str:
        """Folder of one run."""
        return f"{self.root}/runs/{run_id}"

    def outputs(self, run: Run) -> list[str]:
        """Files that a run publishes."""
        return [f"{self.folder(run.id)}/{name}" for name in run.config.OUTPUTS]

    def with_upstream(self, run_ids: Iterable[str]) -> set[str]:
        """Those runs and all that they build on."""
        found: set[str] = set()
        waiting = list(run_ids)
        while waiting:
            run_id = waiting.pop()
            if run_id not in found:
                found.add(run_id)
                waiting += self.runs[run_id].parents
        return found

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


def scale_root(scale_name: str) -> str:
    """Folder of everything that is written at a scale."""
    return f"results/{scale_name}"
