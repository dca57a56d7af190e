"""Looking up the numbers of one row of the tables."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from m2mkd.statistics import Summary, summarise
from m2mkd.study.run import Row
from m2mkd.study.study import Study


@dataclass(frozen=True)
class Cell:
    """A number of one row over its seeds."""

    data: str
    per_seed: tuple[float, ...]
    """One for each seed."""
    count: int | None
    """Images of one seed; none where that was not recorded."""
    seeds: tuple[int | None, ...]
    """None where all seeds share the run."""

    @property
    def over_seeds(self) -> Summary:
        return summarise(self.per_seed)


class Numbers:
    """Looks up measurements of a row."""

    def __init__(self, measurements: pd.DataFrame):
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        where = zip(
            *(measurements[name].tolist() for name in ("experiment", "variant", "profile", "split", "metric", "rendition")), strict=True
        )
        what = zip(*(measurements[name].tolist() for name in ("data", "seed", "value", "count")), strict=True)
        for name, (data, seed, value, count) in zip(where, what, strict=True):
            found.setdefault(name, []).append({"data": data, "seed": seed, "value": value, "count": count})
        self.found = found
        self.rows = {where[:3] for where in found}
        """Rows that have a number."""

    def cells(self, row: Row, split: str, metric: str, rendition: str = "") -> list[Cell]:
        """The number on each data set of the split."""
        lines = self.found.get((*row.name, split, metric, rendition), [])
        cells = []
        for data in dict.fromkeys(line["data"] for line in lines):
            here = [line for line in lines if line["data"] == data]
            count, numbered = here[0]["count"], tuple(None if pd.isna(line["seed"]) else int(line["seed"]) for line in here)
            cells.append(Cell(data, tuple(line["value"] for line in here), None if pd.isna(count) else int(count), numbered))
        return cells

    def renditions(self, row: Row) -> list[str]:
        """Renditions told apart in a row."""
        return sorted({where[5] for where in self.found if where[:3] == row.name and where[5]})


def rows_measured_by(study: Study, phase: str, numbers: Numbers) -> list[Row]:
    """Rows whose numbers come from that phase and are there."""
    return [row for row in study.rows if study.runs[row.measured[0]].phase == phase and row.name in numbers.rows]
