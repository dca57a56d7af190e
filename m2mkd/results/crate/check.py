"""Checking a crate in any folder: every digest, each run against its key, and the tables against the runs."""

import re
from collections.abc import Iterable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rocrate.rocrate import ROCrate

from m2mkd.config import load
from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.crate.contents import CRATE_MANIFEST, CRATE_METADATA
from m2mkd.results.crate.metadata import FOLDERS
from m2mkd.results.crate.study import CrateStudy

LINE = re.compile(r"([0-9a-f]{64})  (.+)")
AGAIN = "get the crate again, or write it again with 'm2mkd crate'"


@dataclass(frozen=True)
class Checked:
    """Contents of a valid crate."""

    name: str
    files: int
    described: int
    """Number of files that the metadata describe."""
    records: int
    """Number of runs."""
    left_out: int
    """Number of outputs of runs that are recorded by digest only."""
    compiled: int
    """Number of files, mostly tables, that were compiled again from its runs."""
    beside: tuple[str, ...]
    """Files that do not belong to the crate."""


def check_crate(folder: Path) -> Checked:
    """Read a crate and compare everything in it, without running any of its code.

    Raises
    ------
    InputError
        If it is not a crate, or something in it is wrong; names the first fault, and the number of further ones.
    """
    for name in (CRATE_METADATA, CRATE_MANIFEST):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: absent, so this is not a crate of this suite; name its folder")
    digests = _manifest(folder / CRATE_MANIFEST)
    described, actions, name = _described(folder)
    try:
        _require_good([*_files(folder, digests), *_entities(described, digests)])
    except InputError as error:
        raise InputError(f"{folder / str(error)}; {AGAIN}") from None
    with chdir(folder):  # a crate is a project with the usual file names
        found = _within(folder, digests, actions)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    beside = tuple(sorted(there - set(digests) - {CRATE_MANIFEST}))
    return Checked(name, len(digests), len(described), len(found.study.runs), len(found.left_out), len(found.receipt["shown"]), beside)


def _within(folder: Path, digests: dict[str, str], actions: set[str]) -> CrateStudy:
    """Check the study in the crate, which is the working directory."""
    load.forget_files()
    try:
        found = CrateStudy.read(digests)
        _require_good(found.problems(actions))
        _require_good(found.tables_problems())
    except InputError as error:
        raise InputError(f"{folder / str(error).partition('; ')[0]}; {AGAIN}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # A stranger may have written anything.
        raise InputError(f"{folder}: has content that this suite does not write ({type(error).__name__}: {error}); {AGAIN}") from None
    finally:
        load.forget_files()
    return found


def _require_good(problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise InputError(found[0] + (f" ({len(found) - 1} more)" if len(found) > 1 else ""))


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
        if match[2] in digests:
            raise InputError(f"{path}, line {number}: {match[2]} occurs twice; get the crate again")
        digests[match[2]] = match[1]
    return digests


def _described(folder: Path) -> tuple[dict[str, Any], set[str], str]:
    """Properties of each file that the metadata describe, the ids of actions, and the crate's name."""
    path = folder / CRATE_METADATA
    try:
        parse_json(path.read_bytes(), str(path))  # strictly, unlike the library
        crate = ROCrate(folder)
        files = {unquote(entity.id): entity.properties() for entity in crate.data_entities if "File" in entity.type}
        actions = {entity.id for entity in crate.contextual_entities if entity.type == "CreateAction"}
        return files, actions, str(crate.name)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise InputError(f"{path}: not the metadata of an RO-Crate ({error}); get the crate again") from None


def _files(folder: Path, digests: dict[str, str]) -> Iterator[str]:
    root = folder.resolve()
    for path, expected in digests.items():
        if not (folder / path).is_file():
            yield f"{path}: absent, though {CRATE_MANIFEST} lists it"
        elif not (folder / path).resolve().is_relative_to(root):
            yield f"{path}: leads out of the crate, to {(folder / path).resolve()}"
        elif (actual := sha256(folder / path)) != expected:
            yield f"{path}: sha256 is {actual[:12]}..., but {CRATE_MANIFEST} says {expected[:12]}..."


def _entities(described: dict[str, Any], digests: dict[str, str]) -> Iterator[str]:
    for path, properties in described.items():
        if properties.get("sha256") != digests.get(path):
            yield f"{CRATE_METADATA}: sha256 of {path} is not that of {CRATE_MANIFEST}"
    left_out = tuple(f"{name}/" for name in FOLDERS)  # described as a whole
    for path in sorted(digests.keys() - described.keys() - {CRATE_METADATA}):
        if not path.startswith(left_out):
            yield f"{path}: is not described in {CRATE_METADATA}"
