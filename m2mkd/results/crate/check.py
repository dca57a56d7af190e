"""Checking a crate, wherever it lies: every digest, and that each run is what its key says."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError
from rocrate.rocrate import ROCrate

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.crate.contents import CRATE_MANIFEST, CRATE_METADATA
from m2mkd.study.keys import run_key
from m2mkd.study.phase import RECORD, phase_from
from m2mkd.study.study import RECEIPT

LINE = re.compile(r"([0-9a-f]{64})  (.+)")
RECEIPT_PATH = re.compile(rf"results/[^/]+/tables/{RECEIPT.format('[0-9a-f]+')}")
"""What names the runs that the tables were compiled from, and the tables with their digests."""


@dataclass(frozen=True)
class Checked:
    """What a good crate holds."""

    name: str
    files: int
    described: int
    """Files that the metadata describe one by one."""
    records: int
    """Runs."""
    left_out: int
    """Outputs of runs that are there by their digest alone."""
    beside: tuple[str, ...]
    """Files that the crate does not know."""


def check_crate(folder: Path) -> Checked:
    """Read a crate again and compare everything in it.

    Raises
    ------
    InputError
        If it is none, or something in it is not what it says; names the first such thing, and how many more there are.
    """
    for name in (CRATE_METADATA, CRATE_MANIFEST):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: absent, so this is no crate of this suite; name its folder")
    digests = _manifest(folder / CRATE_MANIFEST)
    described, name = _described(folder)
    records = [path for path in digests if re.fullmatch(rf"results/[^/]+/runs/[^/]+/[^/]+/{RECORD}", path)]
    contents = {path: _record(folder / path) for path in records if (folder / path).is_file()}
    problems = [
        *_files(folder, digests),
        *_entities(described, digests),
        *(problem for path, content in contents.items() for problem in _run(path, content, digests)),
        *(problem for path in digests if RECEIPT_PATH.fullmatch(path) for problem in _receipt(folder, path, digests)),
    ]
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{folder / problems[0]}{more}; get the crate again, or write it anew with 'm2mkd crate'")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    outputs = {f"{Path(path).parent}/{output}" for path, content in contents.items() for output in content["outputs"]}
    beside = tuple(sorted(there - set(digests) - {CRATE_MANIFEST}))
    return Checked(name, len(digests), len(described), len(records), len(outputs - set(digests)), beside)


def _manifest(path: Path) -> dict[str, str]:
    digests = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; get the crate again") from None
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise InputError(f"{path}, line {number}: not a sha256 and a path within the crate; get the crate again")
        digests[match[2]] = match[1]
    return digests


def _described(folder: Path) -> tuple[dict[str, Any], str]:
    """Properties of each file that the metadata describe, and the crate's name."""
    try:
        crate = ROCrate(folder)
        files = {unquote(entity.id): entity.properties() for entity in crate.data_entities if "File" in entity.type}
        return files, str(crate.name)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{folder / CRATE_METADATA}: not the metadata of an RO-Crate ({error}); get the crate again") from None


def _files(folder: Path, digests: dict[str, str]) -> Iterator[str]:
    for path, expected in digests.items():
        if not (folder / path).is_file():
            yield f"{path}: absent, though {CRATE_MANIFEST} lists it"
        elif (actual := sha256(folder / path)) != expected:
            yield f"{path}: sha256 is {actual[:12]}..., but {CRATE_MANIFEST} says {expected[:12]}..."


def _entities(described: dict[str, Any], digests: dict[str, str]) -> Iterator[str]:
    for path, properties in described.items():
        if properties.get("sha256") != digests.get(path):
            yield f"{CRATE_METADATA}: sha256 of {path} is not that of {CRATE_MANIFEST}"


def _record(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        found = {name: content[name] for name in ("id", "key", "config")}
        upstream = {role: tuple(ids) for role, ids in dict(content["upstream"]).items()}
        return found | {"upstream": upstream, "outputs": dict(content["outputs"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a whole record of a run ({type(error).__name__}: {error}); get the crate again") from None


def _run(path: str, content: dict[str, Any], digests: dict[str, str]) -> Iterator[str]:
    """What is wrong with one run: its key must follow from its configuration, its outputs have their digests, its upstream be there."""
    phase, key = Path(path).parts[-3:-1]
    try:
        config = phase_from(content["config"])
    except ValidationError as error:
        yield f"{path}: its configuration is not one of this version of the suite ({error.errors()[0]['msg']})"
        return
    upstream = content["upstream"]
    if (content["id"], content["key"], run_key(config.FORMAT, config.model_dump(mode="json"), upstream)) != (f"{phase}/{key}", key, key):
        yield f"{path}: its key does not follow from its configuration"
    for output, digest in content["outputs"].items():
        if digests.get(f"{Path(path).parent}/{output}", digest) != digest:
            yield f"{Path(path).parent}/{output}: not the file that {RECORD} beside it records"
    root = Path(path).parents[2]
    for run_id in (run_id for ids in upstream.values() for run_id in ids):
        if f"{root}/{run_id}/{RECORD}" not in digests:
            yield f"{path}: builds on {run_id}, which is not in the crate"


def _receipt(folder: Path, path: str, digests: dict[str, str]) -> Iterator[str]:
    """What was compiled is what is here."""
    try:
        content = json.loads((folder / path).read_text())
        runs, tables = list(content["runs"]), dict(content["tables"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path}: not a whole receipt of tables ({type(error).__name__}: {error})"
        return
    root = Path(path).parents[1]
    there = {"/".join(Path(name).parts[3:5]) for name in digests if name.startswith(f"{root}/runs/") and name.endswith(f"/{RECORD}")}
    yield from (f"{path}: lists {run}, which is not in the crate" for run in runs if run not in there)
    for name, digest in tables.items():
        if digests.get(f"{root}/tables/{name}") != digest:
            yield f"{root}/tables/{name}: not what was compiled, by {Path(path).name}"
