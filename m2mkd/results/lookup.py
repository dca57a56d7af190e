"""Looking up the numbers of one row of the tables."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from m2mkd.statistics import Summary, summarise
from m2mkd.study.lineage import place_of
from m2mkd.study.study import Row, Study


@dataclass(frozen=True)
class Cell:
    """A number of one row over its seeds."""

    data: str
    seeds: tuple[float, ...]
    """One value each."""
    count: int | None
    """Images of one seed; none where that was not recorded."""
    replicates: tuple[int, ...]
    """Number of each seed."""

    @property
    def over_seeds(self) -> Summary:
        return summarise(self.seeds)


class Numbers:
    """Looks up measurements of a row."""

    def __init__(self, measurements: pd.DataFrame):
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        where = zip(
            *(measurements[name].tolist() for name in ("experiment", "variant", "profile", "split", "metric", "rendition")), strict=True
        )
        what = zip(*(measurements[name].tolist() for name in ("data", "replicate", "value", "count")), strict=True)
        for place, (data, replicate, value, count) in zip(where, what, strict=True):
            found.setdefault(place, []).append({"data": data, "replicate": replicate, "value": value, "count": count})
        self.found = found
        self.places = {where[:3] for where in found}
        """Rows that have a number."""

    def cells(self, row: Row, split: str, metric: str, rendition: str = "") -> list[Cell]:
        """The number on each data set of the split."""
        lines = self.found.get((*place_of(row), split, metric, rendition), [])
        cells = []
        for data in dict.fromkeys(line["data"] for line in lines):
            here = [line for line in lines if line["data"] == data]
            count, numbered = here[0]["count"], tuple(int(line["replicate"]) for line in here)
            cells.append(Cell(data, tuple(line["value"] for line in here), None if pd.isna(count) else int(count), numbered))
        return cells

    def renditions(self, row: Row) -> list[str]:
        """Renditions told apart in a row."""
        return sorted({where[5] for where in self.found if where[:3] == place_of(row) and where[5]})


def rows_measured_by(study: Study, phase: str, numbers: Numbers) -> list[Row]:
    """Rows whose numbers come from that phase and are there."""
    return [row for row in study.rows if study.runs[row.measured[0]].phase == phase and place_of(row) in numbers.places]
