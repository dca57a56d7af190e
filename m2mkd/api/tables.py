"""Compiled tables of a study as data frames."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from m2mkd.errors import InputError
from m2mkd.study.receipt import changed_files, read_receipt
from m2mkd.study.study import RECEIPT, scale_root

READERS = {".csv": pd.read_csv, ".parquet": pd.read_parquet}


class Results(Mapping[str, pd.DataFrame]):
    """Compiled tables of a study by name; each is read when it is asked for.

    Shares are numbers from 0 to 1, as in the files. The tables are explained in the reference of output files.

    Parameters
    ----------
    scale_or_folder
        Name of a scale, whose tables are looked for in ``results/<scale>`` of the working directory; or that folder itself.

    Attributes
    ----------
    folder : Path
        Folder that holds ``tables``.
    is_complete : bool
        True if every run of the study had finished when the tables were compiled.

    Raises
    ------
    InputError
        If there are no tables, or a file was changed after it was compiled.

    Examples
    --------
    >>> results = m2mkd.Results(scale)
    >>> "measurements" in results
    True
    >>> measurements = results["measurements"]
    >>> top1 = measurements[(measurements.split == "iid") & (measurements.metric == "top1")]
    >>> bool(top1.value.between(0, 1).all())
    True
    """

    def __init__(self, scale_or_folder: str | Path) -> None:
        named = Path(scale_or_folder)
        self.folder = named if named.is_dir() else Path(scale_root(str(scale_or_folder)))
        tables = self.folder / "tables"
        self._files = {path.stem: path for path in sorted(tables.glob("*")) if path.suffix in READERS}
        if not self._files:
            raise InputError(f"{tables}: has no compiled tables; run 'm2mkd compile', or give another scale or folder")
        receipts = sorted(tables.glob(RECEIPT.format("*")))
        self.is_complete = bool(receipts)
        here = {f"{tables.name}/{path.name}" for path in self._files.values()}
        for receipt in receipts:
            digests = {name: digest for name, digest in read_receipt(receipt)["shown"].items() if name in here}
            for change in changed_files(self.folder, {"shown": digests}):
                raise InputError(f"{change} since it was compiled; run 'm2mkd compile' again")

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Table of that name; raises `KeyError` with the names that there are."""
        if name not in self._files:
            close = difflib.get_close_matches(str(name), self._files, n=1)
            guess = f"did you mean '{close[0]}'? " if close else ""
            raise KeyError(f"no table '{name}'; {guess}There are {', '.join(self._files)}")
        path = self._files[name]
        frame: pd.DataFrame = READERS[path.suffix](path)  # type: ignore[operator]
        return frame

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
