"""Published numbers (``results/published``), which this suite did not measure itself."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from m2mkd.config.tables import read_table
from m2mkd.errors import InputError
from m2mkd.files import write_text

PAPERS = Path("results/published")
COLUMNS = ("experiment", "variant", "split", "metric", "value", "unit", "source", "status")
PAPER = "m2mkd"
"""File of the paper that is reproduced; other files are used if it has no value."""


FILLABLE = ("VERIFIED", "SECONDARY")
"""Statuses of a number that has been seen."""


@dataclass(frozen=True)
class Published:
    """Cell of a paper's table."""

    paper: str
    """Name of the file that it comes from."""
    value: float | None
    """Value as printed, in ``unit``; none: not seen."""
    unit: str
    status: str
    source: str

    @property
    def is_accuracy(self) -> bool:
        """True if it is in percent, like this suite's numbers."""
        return self.unit.startswith("percent")

    def __str__(self) -> str:
        if self.value is None:
            return self.status
        unit = "" if self.is_accuracy else f" {self.unit}"
        return f"{self.value:g}{unit} ({self.paper}, {self.status})"


class PublishedNumbers:
    """All published cells that belong to a row of this suite's tables."""

    def __init__(self, folder: Path = PAPERS):
        """Read every file of ``folder``.

        Raises
        ------
        InputError
            If a file is not UTF-8, or has other columns, a row of more or fewer cells, or a value that is not a finite number.
        """
        self.cells: dict[tuple[str, str, str, str], list[Published]] = {}
        for path in sorted(folder.glob("*.csv"), key=lambda path: (path.stem != PAPER, path.stem)):
            header, lines = read_table(path, ",")
            if tuple(header) != COLUMNS:
                raise InputError(f"{path}: the columns are {', '.join(header)}; they must be {', '.join(COLUMNS)}")
            for number, cells in lines:
                self._add(path, number, dict(zip(COLUMNS, cells, strict=True)))

    def _add(self, path: Path, number: int, line: dict[str, str]) -> None:
        try:
            value = float(line["value"]) if line["value"] else None
            if not math.isfinite(value or 0.0):
                raise ValueError
        except ValueError:
            raise InputError(f"{path}, line {number}: value '{line['value']}' is not a number; correct it, or leave it empty") from None
        where = line["experiment"], line["variant"], line["split"], line["metric"]
        self.cells.setdefault(where, []).append(Published(path.stem, value, line["unit"], line["status"], line["source"]))

    def find(self, experiment: str, variant: str, split: str, metric: str = "top1") -> Published | None:
        """The published cell of a row, or none.

        The paper's own value comes first, then another paper's for the same setting, then the note that none was seen. A row of a
        transfer experiment without its own value takes that of the student it names.
        """
        source, _, chosen = variant.partition("/")
        for where in ((experiment, variant), (source, chosen)):
            cells = self.cells.get((*where, split, metric), [])
            if cells:
                return next((cell for cell in cells if cell.value is not None), cells[0])
        return None


def fill_cell(
    paper: str, where: tuple[str, str, str, str], value: float, source: str, status: str = "VERIFIED", folder: Path = PAPERS
) -> None:
    """Fill one empty cell, with its source; every other byte of the file stays.

    Parameters
    ----------
    paper
        Stem of its file in ``folder``.
    where
        Experiment, variant, split and metric.
    value
        Number as printed, in the unit that the file gives.
    source, status
        Place where it was seen, and its status: VERIFIED in the source itself, SECONDARY in a quotation.

    Raises
    ------
    InputError
        If there is not exactly one such cell, it has a value already, or value, source or status is invalid.
    """
    path = folder / f"{paper}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such paper; there are {', '.join(sorted(file.stem for file in folder.glob('*.csv')))}")
    PublishedNumbers(folder)  # refuses invalid files
    lines = [list(COLUMNS), *(cells for _, cells in read_table(path, ",")[1])]
    name = " ".join(part or "''" for part in where)
    found = [line for line in lines[1:] if tuple(line[:4]) == where]
    if len(found) != 1:
        raise InputError(f"{path}: {len(found)} cells are {name}; name exactly one by experiment, variant, split and metric")
    (line,) = found
    cell = dict(zip(COLUMNS, line, strict=True))
    if cell["value"]:
        raise InputError(f"{path}: {name} is {cell['value']} ({cell['status']}, {cell['source']}) already; edit the file if that is wrong")
    if status not in FILLABLE:
        raise InputError(f"status '{status}': a number that was seen is {' or '.join(FILLABLE)}")
    if not source.strip():
        raise InputError("source: empty; say version, table or figure, and address")
    if not math.isfinite(value) or (cell["unit"].startswith("percent") and not 0 <= value <= 100):
        raise InputError(f"value {value:g}: the cell is in {cell['unit']}, from 0 to 100; give it as it is printed")
    line[4], line[6], line[7] = f"{value:.12g}", " ".join(source.split()), status
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    write_text(path, buffer.getvalue())
