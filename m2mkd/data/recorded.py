"""Comparison of prepared sets and source files with the records of runs and manifests, so that none is silently replaced."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from m2mkd.data.manifest import PACK_MANIFEST, read_manifest
from m2mkd.errors import InputError
from m2mkd.files import require_file
from m2mkd.study.data import Data, resolve_data
from m2mkd.study.phase import RECORD
from m2mkd.study.record import read_run_json

PACKED = Path("data/packed")
MANIFESTS_KEPT = 64


def manifest_here(folder: Path) -> tuple[dict[str, Any], str] | None:
    """Manifest of a prepared set and its digest; None if the set does not exist.

    Raises
    ------
    InputError
        See `m2mkd.data.manifest.read_manifest`.
    """
    try:
        state = require_file(folder / PACK_MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read(folder.absolute(), folder, (state.st_size, state.st_mtime_ns, state.st_ino))


@lru_cache(MANIFESTS_KEPT)
def _read(place: Path, folder: Path, state: tuple[int, ...]) -> tuple[dict[str, Any], str]:
    """Cached reading: a study reads the same few manifests once for each run; place and state identify a manifest."""
    return read_manifest(folder)


def digests_here(sets: Iterable[Data]) -> dict[str, str]:
    """Digests of prepared sets by name@size, as runs record them.

    Raises
    ------
    InputError
        If a set is missing or damaged.
    """
    return {str(data): read_manifest(Path(data.folder))[1] for data in sets}


def require_recorded(recorded: object, sets: Iterable[Data], where: str) -> None:
    """Refuse a record of data other than the expected or the existing sets.

    Parameters
    ----------
    recorded
        Digests by name@size, as a run recorded them.
    sets
        Sets that the run reads. A missing set is not compared.
    where
        Path of the record.

    Raises
    ------
    InputError
        If names or digests differ.
    """
    wanted = {str(data): data for data in sets}
    if not isinstance(recorded, Mapping) or recorded.keys() != wanted.keys():
        raise InputError(f"{where}: does not say which data the run used; remove {Path(where).parent} and run the workflow again")
    for name, data in wanted.items():
        here = manifest_here(Path(data.folder))
        if here is not None and here[1] != recorded[name]:
            raise InputError(
                f"{where}: the run used {name} with digest {str(recorded[name])[:12]}..., but {data.folder} is {here[1][:12]}...; "
                f"restore the right set, or remove {Path(where).parent} and run the workflow again"
            )


def require_seen(folder: Path) -> int:
    """Refuse a prepared set that differs from the one that finished runs, at any scale, recorded.

    Returns
    -------
    int
        Number of runs that used it.

    Raises
    ------
    InputError
        If a run used another set; names it.
    """
    here, name, count = manifest_here(folder), folder.parent.name, 0
    for path in sorted(Path("results").glob(f"*/runs/*/*/{RECORD}")):
        try:
            record = read_run_json(path.parent)
            if not any(_is_set(value, name, folder.name) for value in _values(record["config"])):
                continue
            known = record["data"][name]
        except (OSError, InputError, KeyError, TypeError, AttributeError):
            continue  # not a data error; 'm2mkd runs verify' reports it
        if here is not None and known != here[1]:
            raise InputError(
                f"{folder}: its digest is {here[1][:12]}..., but {path} used {str(known)[:12]}...; restore the right set, or remove the "
                "runs that used it and run the workflow again"
            )
        count += 1
    return count


def _values(config: Mapping[str, Any]) -> Iterator[Any]:
    for value in config.values():
        yield from value if isinstance(value, list) else [value]


def _is_set(value: Any, name: str, key: str) -> bool:
    return isinstance(value, dict) and value.get("key") == key and f"{value.get('name')}@{value.get('image_size')}" == name


def require_sources(name: str, digests: Mapping[str, str]) -> None:
    """Refuse source files that differ from those that the prepared sets of their name were made from.

    If the registry has no digest of a file, only its manifests identify it.

    Parameters
    ----------
    name
        Data set in ``config/datasets.yaml``.
    digests
        sha256 of the existing source files, by name.

    Raises
    ------
    InputError
        If one differs.
    """
    for path in sorted(PACKED.glob(f"{name}@*/*/{PACK_MANIFEST}")):
        try:
            current = resolve_data(path.parts[-3], str(path))[0].key
        except InputError:
            continue  # a folder with another name
        if path.parent.name != current:
            continue  # for a file that was registered earlier
        here = manifest_here(path.parent)
        made_from = here[0]["source"].get("files") if here else None
        for file, digest in digests.items():
            known = made_from.get(file, digest) if isinstance(made_from, dict) else digest
            if known != digest:
                raise InputError(
                    f"data/raw/{file}: sha256 is {digest[:12]}..., but {path.parent} was made from {str(known)[:12]}...; "
                    f"restore the right file, or remove data/packed/{name}@* and the runs that used it"
                )
