"""Text tables in the forms that common programs save."""

import csv
import io
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from m2mkd.errors import InputError
from m2mkd.files import require_file

LARGEST_TABLE = 1 << 24
"""Size limit in bytes; a table filled by hand has a hundredth of it."""


def read_table(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a table with a header: in UTF-8, or in UTF-16 with a byte order mark, with any line ends, cells quoted or not.

    Parameters
    ----------
    path
        The file.
    delimiter
        Separator of its cells. With a comma, semicolons are accepted too, which spreadsheets write in many countries.

    Returns
    -------
    tuple
        Cells of the header, and the number and cells of each line with any text. Empty cells after the last column are left out.

    Raises
    ------
    OSError
        If it cannot be read.
    InputError
        If it is not such a table, or a line has more or fewer cells than the header.
    """
    if require_file(path).st_size > LARGEST_TABLE:
        raise InputError(f"{path}: is larger than {LARGEST_TABLE} bytes; a table is shorter")
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8"
    try:
        text = content.removeprefix(BOM_UTF8).decode(encoding)
        first = text.partition("\n")[0]
        delimiter = ";" if delimiter == "," and ";" in first and "," not in first else delimiter
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a table in UTF-8 (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({error}); correct it") from None
    if not lines:
        raise InputError(f"{path}: is empty; restore it")
    header = _without_empty_end(lines[0][1], 0)
    return header, [(number, _fitting(cells, header, f"{path}, line {number}")) for number, cells in lines[1:]]


def _fitting(cells: list[str], header: list[str], where: str) -> list[str]:
    fitting = _without_empty_end(cells, len(header))
    if len(fitting) != len(header):
        raise InputError(f"{where}: does not have {len(header)} cells; quote cells that contain a separator, and add missing ones")
    return fitting


def _without_empty_end(cells: list[str], least: int) -> list[str]:
    kept = len(cells)
    while kept > least and not cells[kept - 1].strip():
        kept -= 1
    return cells[:kept]
