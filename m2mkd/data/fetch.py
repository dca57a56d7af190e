"""Fetching the source files of a data set: resumed after interruptions, checked, and never fetched twice."""

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.data.download import PAUSE, answers, download, forget
from m2mkd.data.recorded import require_sources
from m2mkd.errors import InputError
from m2mkd.files import publish, read_note, require_file, write_json

RAW = Path("data/raw")
DIGESTS = ("sha256", "md5")
HASHED_AT_ONCE = 1 << 20
"""Bytes that are read at a time."""
LARGEST_DOWNLOAD = 1 << 38
"""Maximum bytes of a file whose size is not in the registry."""
TOLERANCE = 20
"""Sizes in the registry are approximate: one more byte may arrive per this many bytes."""


def raw_file(source: SourceFile) -> Path:
    """Path of a source file; sets that are made from the same file share it."""
    return RAW / source.name


def fetch(name: str, dataset: DatasetConfig, origin: str | None = None, only: str | None = None, pause: float = PAUSE) -> None:
    """Fetch the source files of a data set to ``data/raw``; existing correct files are kept.

    Of a subset's alternative sources, the first one that ``origin`` has is fetched, or none if one exists already.

    Parameters
    ----------
    name, dataset
        Entry of ``config/datasets.yaml``.
    origin
        Folder (path, ``file:`` or ``http(s):``) with the files, instead of the registered sources.
    only
        Name of the only file to fetch; None: all files.
    pause
        Seconds before a dropped connection is resumed.

    Raises
    ------
    InputError
        If a file must be obtained by hand, its source does not answer, or it differs from the registered file or the one that a prepared
        set was made from; existing files are kept.
    """
    known = [source.name for sources in dataset.sources for source in sources] if dataset.fetched else []
    if only is not None and only not in known:
        raise InputError(f"{name}: has no source file {only}; it has {', '.join(known) or 'none'}")
    serving = _serving(dataset, origin)
    # A pack can replace any of the source files that was requested.
    for source in [source for source in serving if only in (None, source.name)] or serving:
        target = raw_file(source)
        if not target.exists():
            _bring(name, dataset, source, origin, pause)
        require_sources(name, {source.name: check(target, source, name)})


def present(dataset: DatasetConfig) -> tuple[SourceFile, ...]:
    """Files that a set is prepared from here: the first alternative in ``data/raw``, else its source files."""
    return next((files for files in dataset.sources if all(raw_file(file).exists() for file in files)), dataset.files)


def _serving(dataset: DatasetConfig, origin: str | None) -> tuple[SourceFile, ...]:
    """Files to have in ``data/raw``: those that exist already, else the first alternative that ``origin`` has."""
    if dataset.made_here:
        return ()
    there = present(dataset)
    if len(dataset.sources) == 1 or origin is None or all(raw_file(file).exists() for file in there):
        return there
    return next((files for files in dataset.sources if all(_offered(_place(origin, file)) for file in files)), there)


def _place(origin: str, source: SourceFile) -> str:
    """Address or path of a file in ``origin``."""
    return f"{origin.rstrip('/')}/{source.name}"


def _local(url: str) -> Path | None:
    """Local path of an address; None for a web address."""
    if url.lower().startswith(("http:", "https:")):
        return None
    address = re.match("file:(//)?", url, flags=re.IGNORECASE)
    # In the name of a folder a percent sign has no special meaning.
    return Path(unquote(url[address.end() :])) if address else Path(url)


def _offered(url: str) -> bool:
    local = _local(url)
    return answers(url) if local is None else local.is_file()


def _bring(name: str, dataset: DatasetConfig, source: SourceFile, origin: str | None, pause: float) -> None:
    """Fetch a missing file, and check that it is the registered one before it gets its name."""
    target = raw_file(source)
    if target.is_symlink():
        raise InputError(f"{target}: is a link to {target.readlink()}, which does not exist; restore that file, or remove the link")
    url = _place(origin, source) if origin else source.url
    if url is None:
        raise InputError(f"{name}: {dataset.obtain or 'has no source'}; put {source.name} there by hand: {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    local = _local(url)
    if local is None:
        partial = target.with_name(f".{target.name}.part")
        largest = source.bytes + source.bytes // TOLERANCE if source.bytes else LARGEST_DOWNLOAD
        download(url, partial, source.name, largest, pause)
        try:
            check(partial, source, name)
        except InputError:
            forget(partial)
            _kept(partial).unlink(missing_ok=True)
            raise
    else:
        if not local.is_file():
            others = "".join(f", or of {pack.name}," for pack in (dataset.subset.packs if dataset.subset else ()))
            raise InputError(f"{name}: {local} is not a file; give the place of {source.name}{others} with --from")
        check(local, source, name)
        partial = target.with_name(f".{target.name}.local")
        publish(local, partial)
    if _placed(partial, target) and _kept(partial).exists():
        _kept(partial).replace(_kept(target))
    forget(partial)  # only now, so that an earlier kill does not lose the download
    _kept(partial).unlink(missing_ok=True)


def _placed(ready: Path, target: Path) -> bool:
    """Rename a file to its target, unless a user has put one there meanwhile, which is kept."""
    try:
        os.link(ready, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if os.path.lexists(target):  # some file systems do not support links
            return False
        ready.rename(target)
    return True


def check(path: Path, source: SourceFile, name: str, *, afresh: bool = False) -> str:
    """Compare a source file with its registered properties, and return its sha256.

    The digest is kept next to the file, with the size and time that it belongs to, because reading a large archive takes minutes;
    ``afresh`` reads it nevertheless.

    Raises
    ------
    InputError
        If size or digest differ, or the file cannot be read.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; replace it by the archive itself, whose digest is known")
    try:
        digests = _digests(path, afresh)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); allow reading it, or fetch it again") from None
    for kind in DIGESTS:
        expected = getattr(source, kind)
        if expected is not None and digests[kind] != expected:
            raise InputError(
                f"{path}: {kind} is {digests[kind][:12]}..., but config/datasets.yaml expects {expected[:12]}... for {name}; "
                "remove the file and fetch it again, or correct the registry if you mean another file"
            )
    return digests["sha256"]


def _digests(path: Path, afresh: bool) -> dict[str, str]:
    """sha256 and MD5 of a file; kept ones are used if they belong to this very file."""
    now = require_file(path)
    mark: dict[str, Any] = {"bytes": now.st_size, "mtime_ns": now.st_mtime_ns, "inode": now.st_ino}
    known = read_note(_kept(path))
    if (
        not afresh
        and isinstance(known, dict)
        and mark.items() <= known.items()
        and all(isinstance(known.get(kind), str) for kind in DIGESTS)
    ):
        return {kind: known[kind] for kind in DIGESTS}
    hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(HASHED_AT_ONCE):
            for digest in hashes.values():
                digest.update(block)
    found = {kind: digest.hexdigest() for kind, digest in hashes.items()}
    if path.parent.is_relative_to(RAW):
        write_json(_kept(path), mark | found)
    return found


def _kept(path: Path) -> Path:
    """Path of the kept digests of a source file."""
    return path.with_name(f".{path.name}.digest")
