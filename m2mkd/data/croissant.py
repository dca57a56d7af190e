"""Croissant description of a prepared set for machines, in the vocabulary of MLCommons (version 1.0), with a table of its images.

The table gives for each image its index, label and class, name in the source, and the sha256 of its source file; the metadata
describe the columns and the origin of the source files. Neither contains an image.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from m2mkd.config.datasets import PREPARE_FORMAT, DatasetConfig
from m2mkd.data.pack import Pack
from m2mkd.files import sha256, write_atomically, write_json

CROISSANT_FILE = "croissant.json"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {
    word: f"cr:{word}"
    for word in (
        *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes"),
        *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated", "replace"),
        *("samplingRate", "separator", "source", "subField", "transform"),
    )
}
TYPES = dict.fromkeys(("index", "label", "source", "id", "height", "width", "trainable"), "sc:Integer")
"""Types of the columns that do not hold text."""
MEANINGS = {
    "index": "Index of the image in its split, from 0.",
    "label": "Number of its class, from 0, in the order of the prepared set.",
    "class": "Name of its class: a WordNet id where the set has them.",
    "name": "Name of its file in the source.",
    "rendition": "Kind of rendition that it is.",
    "source": "Row, from 0, of its source image in the source file.",
    "id": "Number of the image in the source.",
    "height": "Height of the image in pixels.",
    "width": "Width of the image in pixels.",
    "trainable": "Number of its instances that are not crowds, which a detector is trained on.",
    "sha256": "Digest of its source file, or of its pixels where the source holds an array.",
}
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
MEDIA_TYPES = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".parquet": "application/vnd.apache.parquet",
}


def write_croissant(pack: Pack, dataset: DatasetConfig, folder: Path) -> None:
    """Write ``croissant.json``, and a table ``SPLIT.csv`` for each split.

    Parameters
    ----------
    pack, dataset
        Prepared set, and its entry in the registry.
    folder
        Output folder.
    """
    tables = {}
    for name in pack.manifest["splits"]:
        facts = pack.facts(name)
        labelled = [] if "instances" in facts else ["label", "class"]
        tables[name] = ["index", *labelled, *sorted(facts["attributes"])]
        lines = chain([tables[name]], _rows(pack, name, bool(labelled)))
        write_atomically(folder / f"{name}.csv", partial(_write_lines, lines))
    write_json(folder / CROISSANT_FILE, _metadata(pack, dataset, folder, tables))


def _write_lines(lines: Iterable[Sequence[Any]], file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, write_through=True)
    csv.writer(text, lineterminator="\n").writerows(lines)
    text.detach()


def _rows(pack: Pack, split: str, labelled: bool) -> Iterator[list[Any]]:
    attributes = [values for _, values in sorted(pack.attributes(split).items())]
    labels = pack.labels(split).tolist() if labelled else None
    for index in range(pack.facts(split)["images"]):
        label = [labels[index], _text(pack.classes[labels[index]])] if labels is not None else []
        yield [index, *label, *(_plain(values[index]) for values in attributes)]


def _plain(value: Any) -> Any:
    """Convert a name to text and a digest to hexadecimal; keep a number."""
    if value.ndim:
        return bytes(value).hex()
    plain = value.item()
    return _text(plain.decode(errors="replace") if isinstance(plain, bytes) else plain)


def _text(cell: Any) -> Any:
    """Escape text that spreadsheet programs would take for a formula: names are untrusted."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell


def _metadata(pack: Pack, dataset: DatasetConfig, folder: Path, tables: dict[str, list[str]]) -> dict[str, Any]:
    made = " Made by image operations from another set: never to be reported as a natural one." if dataset.synthetic else ""
    counts = " and ".join(f"{facts['images']} ({name})" for name, facts in pack.manifest["splits"].items())
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": pack.name,
        "description": f"{dataset.title}. {counts} images of {len(pack.classes)} classes, prepared at {pack.image_size} pixels.{made}",
        "license": dataset.licence,
        "url": dataset.homepage or next((file.url for file in dataset.files if file.url), "https://arxiv.org/abs/2402.16918"),
        "version": f"{PREPARE_FORMAT}.0.0",
        "distribution": [*_sources(pack, dataset), *(_table(folder / f"{split}.csv") for split in tables)],
        "recordSet": [_record_set(split, columns) for split, columns in tables.items()],
    }


def _sources(pack: Pack, dataset: DatasetConfig) -> Iterator[dict[str, Any]]:
    """Source files; a file without an address is named by its path in the project."""
    seen = pack.manifest["source"].get("files", {})
    for file in dataset.files:
        facts: dict[str, Any] = {
            "@type": "cr:FileObject",
            "@id": file.name,
            "name": file.name,
            "description": dataset.obtain or "As its makers publish it.",
            "contentUrl": file.url or f"data/raw/{file.name}",
            "encodingFormat": MEDIA_TYPES.get(Path(file.name).suffix, "application/octet-stream"),
        }
        digests = {"sha256": file.sha256 or seen.get(file.name), "md5": file.md5, "contentSize": file.bytes and f"{file.bytes} B"}
        yield facts | {name: value for name, value in digests.items() if value}


def _table(path: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "description": f"A line for each image of the split {path.stem}.",
        "contentUrl": path.name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "text/csv",
        "sha256": sha256(path),
    }


def _record_set(split: str, columns: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"Images of the split {split}.",
        "key": {"@id": f"{split}/index"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{column}",
                "name": column,
                "description": MEANINGS[column],
                "dataType": TYPES.get(column, "sc:Text"),
                "source": {"fileObject": {"@id": f"{split}.csv"}, "extract": {"column": column}},
            }
            for column in columns
        ],
    }
