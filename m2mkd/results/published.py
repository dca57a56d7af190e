"""The numbers of the papers (``results/published``), which this suite never measured itself."""

import csv
from dataclasses import dataclass
from pathlib import Path

from m2mkd.errors import InputError

FOLDER = Path("results/published")
COLUMNS = ("experiment", "variant", "split", "metric", "value", "unit", "source", "status")
PAPER = "m2mkd"
"""File of the paper that is reproduced; the others are consulted where it has no value."""


@dataclass(frozen=True)
class Published:
    """One cell of a paper's table."""

    paper: str
    """Name of the file that it comes from."""
    value: float | None
    """As printed, in ``unit``; none: nobody here has seen it."""
    unit: str
    status: str
    source: str

    def __str__(self) -> str:
        if self.value is None:
            return self.status
        unit = "" if self.unit.startswith("percent") else f" {self.unit}"
        return f"{self.value:g}{unit} ({self.paper}, {self.status})"


class PublishedNumbers:
    """All published cells that belong to a row of this suite's tables."""

    def __init__(self, folder: Path = FOLDER):
        """Read every file of ``folder``.

        Raises
        ------
        InputError
            If a file has other columns, or a value that is no number.
        """
        self.cells: dict[tuple[str, str, str, str], list[Published]] = {}
        for path in sorted(folder.glob("*.csv"), key=lambda path: (path.stem != PAPER, path.stem)):
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or ()) != COLUMNS:
                    raise InputError(f"{path}: the columns are {reader.fieldnames}; they must be {', '.join(COLUMNS)}")
                for line in reader:
                    self._add(path, reader.line_num, line)

    def _add(self, path: Path, number: int, line: dict[str, str]) -> None:
        try:
            value = float(line["value"]) if line["value"] else None
        except ValueError:
            raise InputError(f"{path}, line {number}: value '{line['value']}' is not a number; correct it, or leave it empty") from None
        where = line["experiment"], line["variant"], line["split"], line["metric"]
        self.cells.setdefault(where, []).append(Published(path.stem, value, line["unit"], line["status"], line["source"]))

    def find(self, experiment: str, variant: str, split: str, metric: str = "top1") -> Published | None:
        """The published cell of a row, or none.

        The paper's own value comes first, then another paper's on the same setting, then the note that none was seen. A row of a transfer
        experiment that has none of its own takes that of the student it names.
        """
        source, _, chosen = variant.partition("/")
        for where in ((experiment, variant), (source, chosen)):
            cells = self.cells.get((*where, split, metric), [])
            if cells:
                return next((cell for cell in cells if cell.value is not None), cells[0])
        return None
