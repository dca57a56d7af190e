"""Parquet files with the bytes of images, as on data set hubs: one row per image, one or several files per split."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from m2mkd.data.archive_checks import LONGEST_NAME, MOST_MEMBERS
from m2mkd.data.archives import LARGEST_FILE
from m2mkd.data.contents import Contents, Listing, require_every_class
from m2mkd.errors import InputError
from m2mkd.files import require_file

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    from m2mkd.config.datasets import SplitName

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label")
"""Names of columns; the first one found is used."""
LARGEST_GROUP = 1 << 30
"""Maximum bytes of a row group, which is read as a whole; writers make groups of some hundred images."""
LARGEST_WORDS, MOST_WORDS = 1 << 24, 1 << 20
"""Maximum bytes and number of the texts and lists in a file's metadata."""
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "val"}
"""Words in file names, and their split: many sets have labels of their test images, and are measured on these."""


class ParquetRow(NamedTuple):
    """Image in a row: small, so that it can be passed to another process."""

    archive: Path
    """The file."""
    name: str
    column: str
    group: int
    """Of rows."""
    row: int
    """Index in its group."""

    def read(self) -> bytes:
        """Image file in the row.

        Raises
        ------
        InputError
            If it is damaged, missing, or larger than any image.
        """
        with _whole(self.archive):
            now = self.archive.stat()
            content = _group(self.archive, self.column, self.group, now.st_mtime_ns, now.st_size)[self.row].as_py()
        if content is None or len(content) > LARGEST_FILE:
            found = (
                "holds no bytes of an image" if content is None else f"has {len(content)} bytes, more than the {LARGEST_FILE} of any image"
            )
            raise InputError(f"{self.archive}: {self.name} {found}; fetch a file that holds the images themselves")
        return content


class _Table(NamedTuple):
    rows: list[ParquetRow]
    labels: list[int]
    names: tuple[str, ...] | None
    """Class names, if the file contains them."""


def parquet(paths: Sequence[Path], splits: "Sequence[SplitName | None]") -> Contents:
    """Read Parquet files.

    Parameters
    ----------
    paths
        Paths of the files, in their order.
    splits
        Split of each file; None: determined by its name.

    Raises
    ------
    InputError
        If a file is damaged or has other columns, a row has no label, or a split lacks a class.
    """
    tables = []
    for path in paths:
        with _whole(path):
            tables.append(_table(path))
    total = sum(len(table.rows) for table in tables)
    largest = max((max(table.labels, default=-1) for table in tables), default=-1)
    classes = tables[0].names or tuple(str(label) for label in range(min(largest + 1, total)))
    listings: dict[str, Listing] = {}
    for path, split, table in zip(paths, splits, tables, strict=True):
        if table.names != tables[0].names:
            raise InputError(f"{path}: has other classes than {paths[0]}; fetch both of the same data set")
        for row, label in enumerate(table.labels):
            if not 0 <= label < len(classes):
                found = f"row {row} has the label {label}, which is not one of {len(classes)} classes"
                raise InputError(f"{path}: {found}; leave out files of images without labels")
        listing = listings.setdefault(split or _split_of(path), Listing())
        listing.members += table.rows
        listing.labels += table.labels
    if "val" not in listings:
        raise InputError(f"{paths[0]}: no file belongs to split val; register one, with 'split: val' if its name does not say so")
    return require_every_class(paths[0], Contents(classes, {split: listings[split] for split in ("train", "val") if split in listings}))


def labelled_rows(path: Path) -> Iterator[tuple[str, ParquetRow]]:
    """Images of one file, each with the name of its class, which is its number if the file has no names; raises as `parquet`."""
    with _whole(path):
        table = _table(path)
    for number, (row, label) in enumerate(zip(table.rows, table.labels, strict=True)):
        if label < 0 or (table.names and label >= len(table.names)):
            found = f"row {number} has the label {label}, which is not that of a class"
            raise InputError(f"{path}: {found}; leave out files of images without labels")
        yield table.names[label] if table.names else str(label), row


def _split_of(path: Path) -> str:
    found = {SPLIT_WORDS[word] for word in re.split("[^a-z]+", path.name.lower()) if word in SPLIT_WORDS}
    if len(found) != 1:
        raise InputError(f"{path}: its name does not say which split it belongs to; register it with 'split: train' or 'split: val'")
    return found.pop()


def _table(path: Path) -> _Table:
    """Rows of a file with their labels; no image is read."""
    import pyarrow as pa

    file = _opened(path)
    schema, facts = file.schema_arrow, file.metadata
    label = next((name for name in LABEL_COLUMNS if name in schema.names and pa.types.is_integer(schema.field(name).type)), None)
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    column = image and _content_column(schema.field(image))
    if label is None or image is None or column is None:
        wanted = f"a column {' or '.join(IMAGE_COLUMNS)} of bytes and a column {' or '.join(LABEL_COLUMNS)} of numbers"
        raise InputError(f"{path}: lacks {wanted}; fetch a file that holds the images themselves")
    if facts.num_rows > MOST_MEMBERS:
        raise InputError(f"{path}: holds more than {MOST_MEMBERS} rows; fetch the file of the right data set")
    labels = file.read(columns=[label], use_threads=False).column(0)
    if labels.null_count:
        raise InputError(f"{path}: {labels.null_count} of its rows have no label; leave out files of images without labels")
    names = iter(_names(file, image, path))
    rows = []
    for group in range(facts.num_row_groups):
        content = facts.row_group(group)
        size = sum(
            content.column(i).total_uncompressed_size for i in range(content.num_columns) if content.column(i).path_in_schema == column
        )
        if size > LARGEST_GROUP:
            raise InputError(f"{path}: has a row group of {size} bytes; write it again with row groups of less than {LARGEST_GROUP}")
        rows += [ParquetRow(path, next(names), column, group, row) for row in range(content.num_rows)]
    if len(rows) != len(labels):
        raise InputError(f"{path}: holds {len(labels)} labels for {len(rows)} images; fetch it again")
    return _Table(rows, labels.to_pylist(), _class_names(schema.metadata or {}, label))


def _content_column(field: "pa.Field") -> str | None:
    """Name of the column with the bytes of an image: a nested one if it also has the file name."""
    import pyarrow as pa

    def is_bytes(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    if pa.types.is_struct(field.type):
        parts = {part.name: part.type for part in field.type}
        return f"{field.name}.bytes" if "bytes" in parts and is_bytes(parts["bytes"]) else None
    return field.name if is_bytes(field.type) else None


def _names(file: "pq.ParquetFile", image: str, path: Path) -> list[str]:
    """Name of each image: its file name if available, else its row."""
    import pyarrow as pa

    count, kind = file.metadata.num_rows, file.schema_arrow.field(image).type
    numbered = [f"{path.name}#{row}" for row in range(count)]
    if not pa.types.is_struct(kind) or not any(part.name == "path" and pa.types.is_string(part.type) for part in kind):
        return numbered
    kept = file.read(columns=[f"{image}.path"], use_threads=False).column(0).to_pylist()
    names = [(row or {}).get("path") or number for row, number in zip(kept, numbered, strict=True)]
    if long := next((name for name in names if len(name) > LONGEST_NAME), None):
        raise InputError(f"{path}: {long[:40]}... is a name of {len(long)} characters; do not use this file, fetch the original")
    return names


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """Names of the classes, as stored by the library that writes such files."""
    found: Any = json.loads(metadata.get(b"huggingface", b"null"))
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, list) or not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in found):
        return None
    return tuple(found) or None


@lru_cache(maxsize=1)
def _group(path: Path, column: str, group: int, _mtime: int, _size: int) -> "pa.ChunkedArray":
    """Bytes of the images of a row group."""
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    values = _opened(path).read_row_group(group, columns=[column], use_threads=False).column(0)
    return pc.struct_field(values, "bytes") if "." in column else values


def _opened(path: Path) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_file(path)
    pa.set_memory_pool(pa.system_memory_pool())  # the other pools reserve far more than they use
    return pq.ParquetFile(
        path,
        memory_map=True,
        thrift_string_size_limit=LARGEST_WORDS,
        thrift_container_size_limit=MOST_WORDS,
        page_checksum_verification=True,
    )


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Report the error of a file in one line; its library fails in many ways."""
    try:
        yield
    except InputError:
        raise
    except ModuleNotFoundError:
        raise InputError(f"{path}: pyarrow, which reads Parquet, is not installed; install the extra 'pipeline'") from None
    except Exception as error:
        reason = str(error)[:200] or type(error).__name__
        raise InputError(f"{path}: is not a complete Parquet file ({reason}); fetch it again") from None
