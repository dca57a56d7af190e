"""Download of a file: resumed after an interruption, and never larger than expected, whatever the server says."""

import http.client
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from m2mkd.errors import InputError
from m2mkd.files import require_file

if TYPE_CHECKING:
    import requests
    from tenacity import RetryCallState

FRUITLESS_ATTEMPTS = 5
"""Consecutive attempts without progress after which the download is given up."""
MOST_ATTEMPTS = 1000
"""Attempts with progress but without completion after which the download is given up."""
PAUSE = 1.0
"""Seconds before the first new attempt; doubled after each one without progress."""
TIMEOUT = 60
SPEED_WINDOW, SPEED_BYTES = 300, 1 << 16
"""Seconds, and the minimum bytes that must arrive in them."""
REDIRECTS = 10
PASSING_STATUS = {408, 425, 429}
"""Temporary refusals: the server timed out, or gets too many requests. Those from 500 are temporary too."""
CHUNK_BYTES = 1 << 16
UNCHECKED = 1 << 26
"""Bytes of an answer of unknown length after which free space is checked."""
RESERVE = 1 << 30
"""Free space that such an answer has to leave."""
MARK = re.compile(r'"[\x21\x23-\x7e]{0,200}"|[A-Za-z0-9:, +-]{1,40}')
"""Headers that mark a version of a file: a strong entity tag, or a date."""


class _PassingError(Exception):
    """Error that a new attempt may overcome."""


class _Patience:
    """Counter of the attempts of a download that make no progress."""

    def __init__(self, partial: Path, pause: float):
        self.partial, self.pause = partial, pause
        self.size, self.fruitless = _size(partial), 0

    def after(self, _: "RetryCallState") -> None:
        before, self.size = self.size, _size(self.partial)
        self.fruitless = 0 if self.size > before else self.fruitless + 1

    def wait(self, _: "RetryCallState") -> float:
        return self.pause * 2**self.fruitless

    def stop(self, state: "RetryCallState") -> bool:
        return self.fruitless >= FRUITLESS_ATTEMPTS or state.attempt_number >= MOST_ATTEMPTS


def download(url: str, partial: Path, title: str, largest: int, pause: float) -> None:
    """Download a file to ``partial``, resuming after an earlier attempt, also one of an earlier process.

    Parameters
    ----------
    url, partial
        Source address and target path.
    title
        Title in the progress display.
    largest
        Maximum bytes of the file.
    pause
        Seconds before a dropped connection is resumed.

    Raises
    ------
    InputError
        If the server refuses, sends something other than the file, sends too much, or does not answer.
    OSError
        If the file cannot be written.
    """
    from tenacity import Retrying, retry_if_exception_type

    patience = _Patience(partial, pause)
    retrying = Retrying(
        retry=retry_if_exception_type(_PassingError), after=patience.after, wait=patience.wait, stop=patience.stop, reraise=True
    )
    with _progress(title) as shown:
        try:
            retrying(_attempt, url, partial, largest, shown)
        except _PassingError as failure:
            kept = f"{_size(partial)} bytes are kept, the same command resumes from there"
            raise InputError(f"{_public(url)}: {failure}, {patience.fruitless} times; {kept}") from None
        except InputError as refused:
            raise InputError(str(refused).replace(url, _public(url))) from None


def answers(url: str) -> bool:
    """True if a server says that it has a file; the download itself reports any other error."""
    import requests
    from urllib3.exceptions import HTTPError

    try:
        with requests.head(url, timeout=TIMEOUT, allow_redirects=True) as answer:
            return answer.status_code == 200
    except (ValueError, OSError, HTTPError, http.client.HTTPException):
        return False


def _public(url: str) -> str:
    """Address without the name and password of the user."""
    return re.sub("(?<=//)[^/]*@", "", url)


def version_mark(partial: Path) -> Path:
    """Path of the partial download's ETag."""
    return partial.with_name(f"{partial.name}.etag")


def forget(partial: Path) -> None:
    """Remove a partial download and its ETag."""
    for path in (partial, version_mark(partial)):
        path.unlink(missing_ok=True)


def _attempt(url: str, partial: Path, largest: int, shown: Callable[[int, int | None], None]) -> None:
    """Make one attempt; errors of the network libraries become one line, or a reason to try again."""
    import requests
    from urllib3.exceptions import HTTPError

    try:
        _transfer(url, partial, largest, shown)
    except ValueError as error:  # invalid address, or invalid headers of a request or an answer
        raise InputError(f"{url}: the request failed ({str(error)[:200]}); check the address") from None
    except (requests.RequestException, HTTPError, http.client.HTTPException) as error:
        raise _PassingError(type(error).__name__) from None
    except OSError as error:
        if error.errno is None:  # error in the user's settings, not in the written file
            raise InputError(f"{url}: the request failed ({str(error)[:200]}); check the settings of your network") from None
        raise


def _transfer(url: str, partial: Path, largest: int, shown: Callable[[int, int | None], None]) -> None:
    there = _size(partial)
    # A partial download is only continued if the server still has the same file; without a version mark the whole file is requested.
    mark = _kept_mark(partial) if there else ""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-", "If-Range": mark} if mark else {})
    with _answer(url, headers) as answer:
        range_ = answer.headers.get("Content-Range", "")
        if mark and answer.status_code == 416:
            if range_ == f"bytes */{there}":
                return  # an earlier process was killed after the download was complete
            forget(partial)
            raise _PassingError("the server has another file")
        _require_success(url, answer)
        continued = answer.status_code == 206
        if continued and not range_.startswith(f"bytes {there}-"):
            forget(partial)
            raise _PassingError("the server resumes at another position")
        there = there if continued else 0
        length = answer.headers.get("Content-Length", "")
        coming = int(length) if re.fullmatch("[0-9]{1,100}", length) else None
        total = None if coming is None else there + coming
        if total is not None and total > largest:
            raise _too_long(url, total, largest)
        _require_space(url, partial, coming or 0)
        with partial.open("ab" if continued else "wb") as file:
            version_mark(partial).write_text(_mark_of(answer))  # only after data of another version are removed
            for chunk in _chunks(url, partial, answer, endless=total is None):
                there += len(chunk)
                if there > largest:
                    forget(partial)
                    raise _too_long(url, there, largest)
                file.write(chunk)
                shown(there, total)
    if total is not None and there < total:
        raise _PassingError("the connection was closed early")


@contextmanager
def _answer(url: str, headers: dict[str, str]) -> Iterator["requests.Response"]:
    """Answer to a request, not read yet; redirects are followed."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            """Return None: `requests` would read the body of a redirect, however large."""

    with Session() as session:
        for _ in range(REDIRECTS):
            with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                target = answer.headers.get("Location") if answer.is_redirect else None
                if target is None:
                    yield answer
                    return
            url = urljoin(url, target.encode("latin-1").decode(errors="replace"))
            if urlsplit(url).scheme not in ("http", "https"):
                raise InputError(f"{url}: the server redirects here, but this is not a web address; check the address")
    raise InputError(f"{url}: redirects too often; check the address")


def _require_success(url: str, answer: "requests.Response") -> None:
    status = answer.status_code
    said = f"the server answers {status} {str(answer.reason)[:200]}"
    if status in PASSING_STATUS or status >= 500:
        raise _PassingError(said)
    if status not in (200, 206):
        raise InputError(f"{url}: {said}; check the address")
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise InputError(f"{url}: the server sends it compressed ({encoding[:40]}), though asked not to; fetch it from another address")


def _chunks(url: str, partial: Path, answer: "requests.Response", endless: bool) -> Iterator[bytes]:
    """Chunks as they arrive, at a minimum speed; if the length is unknown, only while there is free space."""
    start, came, unchecked = time.monotonic(), 0, 0
    # Neither decoded nor joined to fixed chunks, of which a part would be lost with the connection.
    while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=False):
        yield chunk
        came, unchecked = came + len(chunk), unchecked + len(chunk)
        if time.monotonic() - start > SPEED_WINDOW:
            if came < SPEED_BYTES:
                raise _PassingError(f"only {came} bytes arrived in {SPEED_WINDOW} seconds")
            start, came = time.monotonic(), 0
        if endless and unchecked > UNCHECKED:
            _require_space(url, partial, RESERVE)
            unchecked = 0


def _mark_of(answer: "requests.Response") -> str:
    """Version mark of an answer; a weak one does not guarantee the same bytes, so it must not be used to continue."""
    marks = (answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""))
    return next((mark for mark in marks if MARK.fullmatch(mark)), "")


def _kept_mark(partial: Path) -> str:
    path = version_mark(partial)
    if not path.exists():
        return ""
    require_file(path)
    with path.open(errors="replace") as file:
        mark = file.read(1000)
    return mark if MARK.fullmatch(mark) else ""


def _size(path: Path) -> int:
    return require_file(path).st_size if path.exists() else 0


def _too_long(url: str, size: int, largest: int) -> InputError:
    expected = f"has {decimal(size)} or more, but at most {decimal(largest)} were expected by config/datasets.yaml"
    return InputError(f"{url}: {expected}; check the address, or correct the field bytes")


def _require_space(url: str, partial: Path, coming: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if coming > free:
        coming_, free_ = (decimal(size) for size in (coming, free))
        raise InputError(f"{url}: {coming_} are still to come, but only {free_} are free in {partial.parent}; free space there")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
