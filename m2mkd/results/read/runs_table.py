"""The table of all runs (``tables/runs.parquet``): its columns, their meaning, and the version of both.

The file carries this documentation itself: ``m2mkd.schema_version`` and ``m2mkd.key`` in its metadata, ``about`` in that of each column.
"""

from collections.abc import Iterable, Mapping
from typing import BinaryIO

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from m2mkd.results.read.records import Record
from m2mkd.study.run import Row, RowName

SCHEMA_VERSION = 3
"""Version, raised if a column is added, removed or changes its meaning. 2: hardware, record and system added. 3: a run is one seed."""
KEY = ("run", "hardware")
"""Columns that identify a line, also in joined tables of several machines."""
COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "run": (pa.string(), "Phase and key, as phase/key."),
    "phase": (pa.string(), "What it does."),
    "key": (pa.string(), "First 16 digits of the sha256 of its configuration, format, data and the keys of the runs that it builds on."),
    "seed": (pa.int64(), "Seed; null where all seeds share the run."),
    "hardware": (pa.string(), "Accelerator or processor that computed it; the instruction set alone where the run recorded no more."),
    "experiment": (pa.string(), "Row of the tables that it is shown under: experiment,"),
    "variant": (pa.string(), "variant,"),
    "profile": (pa.string(), "and compat profile."),
    "used_by": (pa.string(), "All rows that need it, separated by semicolons."),
    "record": (
        pa.string(),
        "sha256 of its run.json, which holds the digests of its outputs, and its time.",
    ),
    "system": (pa.string(), "Operating system."),
    "git_commit": (pa.string(), "Commit of the code; null outside a checkout."),
    "torch": (pa.string(), "Version of torch."),
    "seconds": (pa.float64(), "Wall time; of an interrupted run all sessions, up to the checkpoints from which the next one resumed."),
}
VOLATILE = ("record", "seconds")
"""Columns in which two computations of the same run differ."""


def runs_frame(records: Iterable[Record], home: Mapping[str, RowName], served: Mapping[str, tuple[Row, ...]]) -> pd.DataFrame:
    """Table with a line for each record, with the row under which each run is shown and those that it serves; see COLUMNS."""
    used_by = {run_id: "; ".join(str(row.name) for row in rows) for run_id, rows in served.items()}
    lines = [
        {
            "run": record.run.id,
            "phase": record.run.phase,
            "key": record.run.key,
            "seed": record.run.seed,
            "hardware": record.provenance.get("hardware") or record.provenance.get("machine"),
            **home[record.run.id]._asdict(),
            "used_by": used_by[record.run.id],
            "record": record.digest,
            "system": record.provenance.get("system"),
            "git_commit": record.provenance.get("git_commit"),
            "torch": record.provenance.get("packages", {}).get("torch"),
            "seconds": record.provenance.get("seconds"),
        }
        for record in records
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype({"seed": "Int64"})


def write_runs(frame: pd.DataFrame, file: BinaryIO) -> None:
    """Write the table as Parquet, without the volatile columns, so that equal runs give equal bytes."""
    kept = {name: column for name, column in COLUMNS.items() if name not in VOLATILE}
    fields = [pa.field(name, kind, metadata={"about": about}) for name, (kind, about) in kept.items()]
    described = {"m2mkd.schema_version": str(SCHEMA_VERSION), "m2mkd.key": ",".join(KEY)}
    schema = pa.schema(fields, metadata=described)
    pq.write_table(pa.Table.from_pandas(frame[list(kept)], schema=schema, preserve_index=False).replace_schema_metadata(described), file)
