"""The measurements over seeds: a frame for the tables, and the numbers of one row of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from m2mkd.statistics import Summary, summarise
from m2mkd.study.run import Row

ROW = ["experiment", "variant", "profile"]
"""Columns that name a row of the tables."""
NUMBER = [*ROW, "split", "metric", "rendition"]
"""Columns that name a number of a row; it may have one on each of several data sets."""
SUMMARY = ["mean", "std", "half_width"]


def over_seeds(measurements: pd.DataFrame) -> pd.DataFrame:
    """Measurements by row, number and data set.

    Returns
    -------
    pd.DataFrame
        A line for each, in the order in which they appear: NUMBER, ``data``; ``seeds`` and ``per_seed`` (tuples; the seed is None where
        all seeds share the run), ``count`` (images of one seed), ``n``, ``mean``, ``std`` and ``half_width`` as in
        `m2mkd.statistics.Summary`.
    """
    grouped = measurements.groupby([*NUMBER, "data"], sort=False)
    cells = grouped.agg(seeds=("seed", _seeds), per_seed=("value", tuple), count=("count", "first")).reset_index()
    found = [summarise(values) for values in cells["per_seed"]]
    over = pd.DataFrame(found, columns=["n", *SUMMARY], index=cells.index).astype({"n": "Int64"} | dict.fromkeys(SUMMARY, "float64"))
    return cells.join(over)


def _seeds(seeds: "pd.Series[int]") -> tuple[int | None, ...]:
    return tuple(None if pd.isna(seed) else int(seed) for seed in seeds)


@dataclass(frozen=True)
class Cell:
    """A number of one row over its seeds."""

    data: str
    per_seed: tuple[float, ...]
    """Values, one for each seed."""
    count: int | None
    """Number of images of one seed; none if not recorded."""
    seeds: tuple[int | None, ...]
    """Numbers of the seeds; none if all seeds share the run."""
    over_seeds: Summary


class Numbers:
    """The measurements of a study over seeds.

    Parameters
    ----------
    measurements
        See `m2mkd.results.read.collect.Collected.measurements`.
    """

    def __init__(self, measurements: pd.DataFrame):
        self.over_seeds = over_seeds(measurements)
        self.rows = set(self.over_seeds[ROW].itertuples(index=False, name=None))
        """Names of the rows that have a number."""
        self._cells: dict[tuple[Any, ...], list[Cell]] = {}
        names = self.over_seeds[NUMBER].itertuples(index=False, name=None)
        for name, line in zip(names, self.over_seeds.itertuples(index=False), strict=True):
            self._cells.setdefault(name, []).append(_cell(line))

    def cells(self, row: Row, split: str, metric: str, rendition: str = "") -> list[Cell]:
        """Number on each data set of the split."""
        return self._cells.get((*row.name, split, metric, rendition), [])

    def of(self, split: str, metric: str, renditions: bool = False) -> pd.DataFrame:
        """The number of all rows: ROW, ``rendition`` if asked for, ``data``, ``count``, ``n``, and SUMMARY behind the metric's name."""
        every = self.over_seeds
        chosen = every[(every["split"] == split) & (every["metric"] == metric) & ((every["rendition"] != "") == renditions)]
        kept = [*ROW, *(["rendition"] if renditions else []), "data", "count", "n", *SUMMARY]
        return chosen[kept].rename(columns={name: f"{metric}_{name}" for name in SUMMARY})

    def renditions(self, row: Row) -> list[str]:
        """Renditions that are listed for a row."""
        return sorted({rendition for *name, _, _, rendition in self._cells if tuple(name) == row.name and rendition})


def _cell(line: Any) -> Cell:
    std, half_width = (None if pd.isna(value) else float(value) for value in (line.std, line.half_width))
    summary = Summary(int(line.n), float(line.mean), std, half_width)
    return Cell(line.data, line.per_seed, None if pd.isna(line.count) else int(line.count), line.seeds, summary)


def row_names(rows: Sequence[Row]) -> pd.DataFrame:
    """The names of rows as a frame, to be merged with their numbers."""
    return pd.DataFrame([row.name for row in rows], columns=ROW, dtype=object)
