"""Prepared sets and source files as runs and manifests recorded them: nothing else may stand in their place under the same name."""

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
    """The manifest of a prepared set and its digest; none where the set is not here.

    Raises
    ------
    InputError
        As `m2mkd.data.manifest.read_manifest`.
    """
    try:
        state = require_file(folder / PACK_MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read(folder.absolute(), folder, (state.st_size, state.st_mtime_ns, state.st_ino))


@lru_cache(MANIFESTS_KEPT)
def _read(place: Path, folder: Path, state: tuple[int, ...]) -> tuple[dict[str, Any], str]:
    """A study reads the same few manifests once for each of its runs; place and state tell a manifest from another."""
    return read_manifest(folder)


def digests_here(sets: Iterable[Data]) -> dict[str, str]:
    """Digests of prepared sets by name@size, as runs record them.

    Raises
    ------
    InputError
        If one is absent or damaged.
    """
    return {str(data): read_manifest(Path(data.folder))[1] for data in sets}


def require_recorded(recorded: object, sets: Iterable[Data], where: str) -> None:
    """Refuse a record of other data than it should be of, or than those that are here now.

    Parameters
    ----------
    recorded
        Digests by name@size, as a run recorded them.
    sets
        What the run reads. A set that is not here cannot be compared.
    where
        The record.

    Raises
    ------
    InputError
        If names or digests differ.
    """
    wanted = {str(data): data for data in sets}
    if not isinstance(recorded, Mapping) or recorded.keys() != wanted.keys():
        raise InputError(f"{where}: does not say which data the run saw; remove {Path(where).parent} and run the workflow again")
    for name, data in wanted.items():
        here = manifest_here(Path(data.folder))
        if here is not None and here[1] != recorded[name]:
            raise InputError(
                f"{where}: the run saw {name} with digest {str(recorded[name])[:12]}..., but {data.folder} is {here[1][:12]}...; "
                f"bring the right one back, or remove {Path(where).parent} and run the workflow again"
            )


def require_seen(folder: Path) -> int:
    """Refuse a prepared set that is not the one which finished runs, at any scale, recorded.

    Returns
    -------
    int
        How many runs saw it.

    Raises
    ------
    InputError
        If one saw another; names it.
    """
    here, name, count = manifest_here(folder), folder.parent.name, 0
    for path in sorted(Path("results").glob(f"*/runs/*/*/{RECORD}")):
        try:
            record = read_run_json(path.parent)
            if not any(_is_set(value, name, folder.name) for value in _values(record["config"])):
                continue
            known = record["data"][name]
        except (OSError, InputError, KeyError, TypeError, AttributeError):
            continue  # which is not about data; 'm2mkd runs verify' says what is wrong with it
        if here is not None and known != here[1]:
            raise InputError(
                f"{folder}: its digest is {here[1][:12]}..., but {path} saw {str(known)[:12]}...; bring the right set back, or remove the "
                "runs that saw it and run the workflow again"
            )
        count += 1
    return count


def _values(config: Mapping[str, Any]) -> Iterator[Any]:
    for value in config.values():
        yield from value if isinstance(value, list) else [value]


def _is_set(value: Any, name: str, key: str) -> bool:
    return isinstance(value, dict) and value.get("key") == key and f"{value.get('name')}@{value.get('image_size')}" == name


def require_sources(name: str, digests: Mapping[str, str]) -> None:
    """Refuse source files that are not those which the prepared sets of their name were made from.

    Where the registry has no digest of a file, its manifests are all that tells it from another one.

    Parameters
    ----------
    name
        Data set in ``config/datasets.yaml``.
    digests
        sha256 of its source files that are here, by their names.

    Raises
    ------
    InputError
        If one differs.
    """
    for path in sorted(PACKED.glob(f"{name}@*/*/{PACK_MANIFEST}")):
        try:
            current = resolve_data(path.parts[-3], str(path))[0].key
        except InputError:
            continue  # a folder of another name
        if path.parent.name != current:
            continue  # of a file that was registered earlier
        here = manifest_here(path.parent)
        made_from = here[0]["source"].get("files") if here else None
        for file, digest in digests.items():
            known = made_from.get(file, digest) if isinstance(made_from, dict) else digest
            if known != digest:
                raise InputError(
                    f"data/raw/{file}: sha256 is {digest[:12]}..., but {path.parent} was made from {str(known)[:12]}...; "
                    f"bring the right file back, or remove data/packed/{name}@* and the runs that saw it"
                )
