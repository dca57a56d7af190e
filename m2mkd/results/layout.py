"""One table in every form in which it is read: CSV for programs, Markdown and LaTeX for people."""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from m2mkd.results.statistics import Summary

NUMBERS = re.compile(r"[-\d., ±]*")


@dataclass(frozen=True)
class Sheet:
    """A table as people read it."""

    name: str
    """Stem of its files, and its anchor in the report."""
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Cells as text; accuracies in percent with two decimals."""

    @property
    def is_text(self) -> tuple[bool, ...]:
        """Whether each column holds anything but numbers, so that it is aligned to the left."""
        columns = zip(*self.rows, strict=True)
        return tuple(not any(cells) or not all(NUMBERS.fullmatch(cell) for cell in cells) for cells in columns)

    def without(self, *names: str) -> "Sheet":
        """The same without some columns."""
        kept = [place for place, name in enumerate(self.header) if name not in names]
        rows = tuple(tuple(row[place] for place in kept) for row in self.rows)
        return Sheet(self.name, self.caption, tuple(self.header[place] for place in kept), rows)


@dataclass(frozen=True)
class Table(Sheet):
    """A table with its exact values."""

    exact: pd.DataFrame
    """Shares from 0 to 1, unrounded."""

    def to_csv(self) -> str:
        """Exact values, comma separated; an unknown value is an empty cell."""
        return as_csv(self.exact)

    def to_markdown(self) -> str:
        """A pipe table below its caption."""
        return f"{self.caption}\n\n{self._tabulated('pipe', self.rows)}\n"

    def to_latex(self) -> str:
        """A ``tabular`` with the rules of the package booktabs; its caption is a comment."""
        return f"% {self.caption}\n{self._tabulated('latex_booktabs', self.rows)}\n"

    def _tabulated(self, form: str, rows: Iterable[Sequence[str]]) -> str:
        align = ["left" if text else "right" for text in self.is_text]
        return tabulate(list(rows), headers=list(self.header), tablefmt=form, colalign=align, disable_numparse=True)


def as_csv(frame: pd.DataFrame) -> str:
    """A frame as comma-separated values; an unknown value is an empty cell."""
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def percent(share: float | None) -> str:
    """A share as percent with two decimals; empty where there is none."""
    return "" if share is None or pd.isna(share) else f"{100 * share:.2f}"


def percent_over_seeds(summary: Summary | None) -> str:
    """Mean and sample standard deviation in percent; the mean alone where there is one seed."""
    if summary is None:
        return ""
    return percent(summary.mean) + ("" if summary.std is None else f" ± {percent(summary.std)}")
