"""Getting the source files of a data set: resumed where they were cut off, checked, and never fetched twice."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.errors import InputError
from m2mkd.files import publish, write_json

RAW = Path("data/raw")
ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the first new attempt; doubled with each."""
TIMEOUT = 60
PASSING = ("408", "425", "429")
"""Refusals that pass: the server had to wait, or is asked too often."""
CHUNK = 1 << 16
"""Bytes; what of a chunk came before the connection dropped is lost."""


def raw_file(source: SourceFile) -> Path:
    """Where a source file lies; sets that are made from the same file share it."""
    return RAW / source.name


def fetch(name: str, dataset: DatasetConfig, origin: str | None = None, only: str | None = None, pause: float = PAUSE) -> None:
    """Bring the source files of a data set to ``data/raw``; what is there and right is left alone.

    Parameters
    ----------
    name, dataset
        Entry of ``config/datasets.yaml``.
    origin
        Folder (path, ``file:`` or ``http(s):``) that holds the files, in place of the registered sources.
    only
        Name of the one file that is wanted; none: all of them.
    pause
        Seconds before a dropped connection is taken up again.

    Raises
    ------
    InputError
        If a file must be got by hand, its source does not answer, or it is not the registered one; what was there before stays.
    """
    wanted = [source for source in dataset.fetched if only in (None, source.name)]
    if only is not None and not wanted:
        raise InputError(f"{name}: has no source file {only}; it has {', '.join(source.name for source in dataset.fetched) or 'none'}")
    for source in wanted:
        target = raw_file(source)
        if target.exists():
            check(target, source, name)
            continue
        url = f"{origin.rstrip('/')}/{source.name}" if origin else source.url
        if url is None:
            raise InputError(f"{name}: {dataset.obtain or 'has no source'}; put {source.name} there by hand: {target}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if urlsplit(url).scheme in ("http", "https"):
            partial = target.with_name(f".{target.name}.part")
            _download(url, partial, source, pause)
            try:
                check(partial, source, name)
            except InputError:
                partial.unlink()
                raise
            partial.rename(target)
            _kept(partial).replace(_kept(target))
            _validator(partial).unlink(missing_ok=True)  # only now: until here a kill must not cost the download
        else:
            local = Path(unquote(url.removeprefix("file://").removeprefix("file:")))
            if not local.is_file():
                raise InputError(f"{name}: {local} is not a file; give the place of {source.name} with --from")
            check(local, source, name)
            publish(local, target)
        check(target, source, name)


def check(path: Path, source: SourceFile, name: str, *, afresh: bool = False) -> str:
    """Compare a source file with what is registered about it, and give its sha256.

    The digest is kept beside the file, with the size and time that it belongs to, because a large archive takes minutes to read; ``afresh``
    reads it all the same.

    Raises
    ------
    InputError
        If size or digest differ, or the file cannot be read.
    """
    digests = _digests(path, afresh)
    for kind in ("sha256", "md5"):
        expected = getattr(source, kind)
        if expected is not None and digests[kind] != expected:
            raise InputError(
                f"{path}: {kind} is {digests[kind][:12]}..., but config/datasets.yaml expects {expected[:12]}... for {name}; "
                "remove the file and fetch it again, or correct the registry if you mean another file"
            )
    return digests["sha256"]


def _digests(path: Path, afresh: bool) -> dict[str, str]:
    """sha256 and MD5 of a file, from beside it where they are of this very file."""
    kept = _kept(path)
    try:
        now = path.stat()
        mark: dict[str, Any] = {"bytes": now.st_size, "mtime_ns": now.st_mtime_ns, "inode": now.st_ino}
        try:
            known = json.loads(kept.read_text())
        except (OSError, ValueError):
            known = None
        if afresh or not isinstance(known, dict) or not mark.items() <= known.items():
            hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    for digest in hashes.values():
                        digest.update(chunk)
            known = mark | {kind: digest.hexdigest() for kind, digest in hashes.items()}
            if path.parent.is_relative_to(RAW):
                write_json(kept, known)
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; put the archive itself in its place, whose digest is known") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); allow reading it, or fetch it again") from None
    return {kind: str(known[kind]) for kind in ("sha256", "md5")}


def _kept(path: Path) -> Path:
    """Where the digests of a source file are kept."""
    return path.with_name(f".{path.name}.digest")


def _download(url: str, partial: Path, source: SourceFile, pause: float) -> None:
    """Bring a file to ``partial``, going on where an earlier attempt ended, also one of an earlier process."""
    import requests

    attempt = 0
    with _progress(source.name) as shown:
        while attempt < ATTEMPTS:
            before = _size(partial)
            try:
                if _transfer(url, partial, shown):
                    return
                failure = "the connection was closed early"
            except requests.HTTPError as error:
                failure = str(error)
                if failure.startswith("4") and not failure.startswith(PASSING):
                    raise InputError(f"{url}: the server answers {failure}; check the address") from None
            except requests.RequestException as error:
                failure = type(error).__name__
            attempt = 0 if _size(partial) > before else attempt + 1
            time.sleep(pause * 2**attempt)
    raise InputError(f"{url}: {failure}, {ATTEMPTS} times; {_size(partial)} bytes are kept, the same command goes on from there")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(url: str, partial: Path, shown: Callable[[int, int | None], None]) -> bool:
    """One attempt; whether the file is now whole."""
    import requests

    kept, there = _validator(partial), _size(partial)
    # A part is only continued if the server still has the same file; without a mark of it a server may only be asked for all of it.
    mark = kept.read_text() if there and kept.exists() else ""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-", "If-Range": mark} if mark else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            if answer.headers.get("Content-Range") == f"bytes */{there}":
                return True  # an earlier process was killed when it had all of it
            partial.unlink()
            return False
        answer.raise_for_status()
        continued = answer.status_code == requests.codes.partial_content
        there = there if continued else 0
        length = answer.headers.get("Content-Length")
        total = there + int(length) if length else None
        _require_space(partial, int(length or 0), url)
        # A weak mark does not promise the same bytes, and a server must not continue by it.
        strong = "" if answer.headers.get("ETag", "").startswith("W/") else answer.headers.get("ETag", "")
        with partial.open("ab" if continued else "wb") as file:
            kept.write_text(strong or answer.headers.get("Last-Modified", ""))  # not before what is of another version has gone
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                there += len(chunk)
                shown(there, total)
    return total is None or there >= total


def _validator(partial: Path) -> Path:
    """Where it is kept of which version of the file, by the server's mark, a part is."""
    return partial.with_name(f"{partial.name}.etag")


def _require_space(partial: Path, coming: int, url: str) -> None:
    free = shutil.disk_usage(partial.parent).free
    if coming > free:
        coming_, free_ = (decimal(size) for size in (coming, free))
        raise InputError(f"{url}: {coming_} are to come, but only {free_} are free in {partial.parent}; free space there")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
