"""A table in every format: CSV for programs; Markdown, LaTeX and HTML for people."""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from m2mkd.study.lineage import anchor_of

NUMERIC_CELL = re.compile(r"[-+\d., ±]*")
FORMULA = re.compile(r"[=+\-@\t\r]")
"""Characters that a spreadsheet reads as the beginning of a formula."""
OPTION = re.compile(r"^( *)([\[*])", flags=re.MULTILINE)
"""Beginning of a line that LaTeX reads as an option of the previous line."""


class Linked(str):
    """Cell with a link into the report, such as to the runs behind a number."""

    target: str
    """Id of an element of the report."""

    def __new__(cls, text: str, target: str) -> "Linked":
        """Text with a target; equal to the text alone."""
        cell = super().__new__(cls, text)
        cell.target = target
        return cell


@dataclass(frozen=True)
class DisplayTable:
    """A table as people read it."""

    name: str
    """Stem of its files, and its anchor in the report."""
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Cells as text; accuracies in percent with two decimals."""

    @property
    def is_text(self) -> tuple[bool, ...]:
        """True for each column that holds anything but numbers, and is aligned to the left."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.header)
        return tuple(not any(cells) or not all(NUMERIC_CELL.fullmatch(cell) for cell in cells) for cells in columns)

    def without(self, *names: str) -> "DisplayTable":
        """Copy of the table without some columns."""
        kept = [column for column, name in enumerate(self.header) if name not in names]
        rows = tuple(tuple(row[column] for column in kept) for row in self.rows)
        return DisplayTable(self.name, self.caption, tuple(self.header[column] for column in kept), rows)

    def to_markdown(self) -> str:
        """A pipe table below its caption."""
        return f"{_one_line(self.caption)}\n\n{self._tabulated('pipe', markdown_cell)}\n"

    def _tabulated(self, form: str, cell: Callable[[str], str]) -> str:
        align = ["left" if text else "right" for text in self.is_text]
        header, rows = [cell(name) for name in self.header], [[cell(text) for text in row] for row in self.rows]
        return tabulate(rows, headers=header, tablefmt=form, colalign=align, disable_numparse=True)

    def filled(self) -> "DisplayTable":
        """Copy of the table without empty columns."""
        return self.without(*(name for column, name in enumerate(self.header) if not any(row[column] for row in self.rows)))


@dataclass(frozen=True)
class Table(DisplayTable):
    """A table with its exact values."""

    exact: pd.DataFrame
    """Shares from 0 to 1, unrounded."""

    def to_csv(self) -> str:
        """Exact values, comma separated; an unknown value is an empty cell."""
        return as_csv(self.exact)

    def to_latex(self) -> str:
        """A ``tabular`` with the rules of the package booktabs; its caption is a comment."""
        body = OPTION.sub(r"\1{\2}", self._tabulated("latex_booktabs", _one_line))
        return f"% {_one_line(self.caption)}\n{body}\n"

    def to_html(self) -> str:
        """A ``table`` element, whose cells link to the report in the parent folder."""
        rows = [[_html_cell(cell) for cell in row] for row in self.rows]
        header = [html.escape(name) for name in self.header]
        body = tabulate(rows, headers=header, tablefmt="unsafehtml", disable_numparse=True)
        return body.replace("<table>", f"<table>\n<caption>{html.escape(self.caption)}</caption>", 1) + "\n"


Column = Callable[[Any], str]
"""Function that gives a line's cell in one column; a line has the columns of a frame as attributes."""


def table_of(name: str, caption: str, lines: pd.DataFrame, exact: Sequence[str], shown: Mapping[str, Column]) -> Table:
    """A table from one frame.

    Parameters
    ----------
    name, caption
        As in `DisplayTable`.
    lines
        One for each line; shares from 0 to 1, unrounded.
    exact
        Columns of the frame that programs read, in their order.
    shown
        Columns that people read, by heading.
    """
    rows = tuple(tuple(column(line) for column in shown.values()) for line in lines.itertuples(index=False))
    return Table(name, caption, tuple(shown), rows, lines[list(exact)])


def column(name: str) -> Column:
    """Column of the frame, unchanged; empty if unknown."""

    def text(line: Any) -> str:
        value = getattr(line, name)
        return "" if pd.isna(value) else str(value)

    return text


def accuracy(name: str) -> Column:
    """Mean of a number in percent, with half of its 95 % interval for several seeds, and a link to the runs behind it."""

    def text(line: Any) -> str:
        shown = percent_with_interval(getattr(line, f"{name}_mean"), getattr(line, f"{name}_half_width"))
        return Linked(shown, anchor_of(line)) if shown else ""

    return text


def signed(name: str) -> Column:
    """A difference in points with its sign."""

    def text(line: Any) -> str:
        points = getattr(line, name)
        return "" if pd.isna(points) else f"{points:+.2f}"

    return text


def _html_cell(cell: str) -> str:
    text = html.escape(cell)
    return f'<a href="../report.html#{html.escape(cell.target, quote=True)}">{text}</a>' if isinstance(cell, Linked) else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def markdown_cell(cell: str) -> str:
    """Escape a cell so that it ends neither itself nor its line."""
    return _one_line(cell).replace("\\", r"\\").replace("|", r"\|")


def as_csv(frame: pd.DataFrame) -> str:
    """A frame as comma-separated values; an unknown value is an empty cell.

    Text that a spreadsheet would run as a formula has an apostrophe before it; what reads as a number stays as it is.
    """
    buffer = io.StringIO()
    frame.map(_inert).to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def _inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    is_formula = FORMULA.match(value) and not NUMERIC_CELL.fullmatch(value)
    # A carriage return would end the line, because it is written without quotes.
    return ("'" if is_formula else "") + value.replace("\r\n", "\n").replace("\r", "\n")


def percent(share: float | None) -> str:
    """Format a share as percent with two decimals; empty if there is none."""
    return "" if share is None or pd.isna(share) else f"{100 * share:.2f}"


def percent_with_interval(mean: float | None, half_width: float | None) -> str:
    """Format a mean and half of its 95 % interval in percent; the mean alone for one seed, which has no interval."""
    return percent(mean) + (f" ± {percent(half_width)}" if percent(half_width) else "")
