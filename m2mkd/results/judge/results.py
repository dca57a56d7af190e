"""Results of a study, read, hashed and judged once for all their users: tables, report, crate, tracking."""

from dataclasses import dataclass, replace
from functools import cached_property

from m2mkd.planning.cost import Cost, cost_of
from m2mkd.results.judge.board import Finding, verdict_board
from m2mkd.results.read.collect import Collected


@dataclass(frozen=True, eq=False)
class Results(Collected):
    """Measurements of a study, its verdicts on claims, and the planned cost of its runs."""

    @cached_property
    def findings(self) -> list[Finding]:
        """Every claim of ``config/claims.tsv`` with its verdict, in the order of the file."""
        return [replace(found, outdated=tuple(run for run in found.runs if run in self.outdated)) for found in verdict_board(self)]

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """Cost of each run by the count of operations, by run id."""
        return cost_of(self.study)
