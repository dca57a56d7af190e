"""Address of the MLflow store, and its first opening."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit, urlunsplit

from m2mkd.config.strict import PARSERS_ERRORS
from m2mkd.errors import InputError
from m2mkd.files import require_file, require_writable
from m2mkd.locks import hold

if TYPE_CHECKING:
    from mlflow import MlflowClient

RESULTS = Path("results")
DATABASE = RESULTS / "mlflow.db"
DEFAULT_URI = f"sqlite:///{DATABASE}"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Beginnings of the addresses of databases, which are written to without a server."""
SQLITE = b"SQLite format 3\0"
"""First bytes of a database; an empty file is a database that is not filled yet."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}


def store_uri() -> str:
    """Address of the store: ``MLFLOW_TRACKING_URI``, or the database in ``results``."""
    return os.environ.get(URI_VARIABLE) or DEFAULT_URI


def set_default_tracking_uri(uri: str | None) -> dict[str, str]:
    """Make the configured address the one of this process and those that it starts, unless ``MLFLOW_TRACKING_URI`` is set.

    Returns
    -------
    dict
        The variable, for other processes; empty if neither names an address.
    """
    if uri:
        os.environ.setdefault(URI_VARIABLE, uri)
    return {URI_VARIABLE: os.environ[URI_VARIABLE]} if os.environ.get(URI_VARIABLE) else {}


def artifact_folder() -> Path:
    """Folder of artifacts that this process stores itself: MLflow's own ``MLFLOW_ARTIFACTS_DESTINATION``, or ``results/mlruns``."""
    return Path(os.environ.get("MLFLOW_ARTIFACTS_DESTINATION") or RESULTS / "mlruns")


def is_database(uri: str) -> bool:
    """True if an address is a database's; otherwise it is a server's."""
    return uri.startswith(DATABASES)


def without_credentials(uri: str) -> str:
    """An address without user name, password and query."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    # An empty authority is kept: sqlite:///path.
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if host else uri.partition("?")[0]


def open_client() -> "MlflowClient":
    """Open a client of the store, and make the tables of a fresh database.

    Raises
    ------
    InputError
        As `check_address`.
    MlflowException, SQLAlchemyError
        If it cannot be reached, is damaged or of another version of MLflow.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    uri = store_uri()
    check_address(uri)
    from mlflow import MlflowClient

    # MLflow keeps a store open by its address, which must not mean another file in another working directory.
    address = f"sqlite:///{DATABASE.resolve()}" if uri == DEFAULT_URI else uri
    with _alone(address):
        return cast("MlflowClient", _Asked(MlflowClient(address)))


class _Asked:
    """Client of a store that may answer anything: errors of its parsers become errors of MLflow."""

    def __init__(self, client: "MlflowClient"):
        self._client = client

    def __getattr__(self, name: str) -> Any:
        from google.protobuf.json_format import Error as JsonError
        from google.protobuf.message import Error as MessageError
        from mlflow.exceptions import MlflowException

        value = getattr(self._client, name)
        if not callable(value):
            return value

        def ask(*arguments: Any, **named: Any) -> Any:
            try:
                return value(*arguments, **named)
            except MlflowException:
                raise
            except (*PARSERS_ERRORS, JsonError, MessageError) as error:
                raise MlflowException(f"its answer is not one of MLflow ({type(error).__name__}: {error})") from error

        return ask


def check_address(uri: str) -> None:
    """Refuse at once an address at which nothing can be stored; neither a server nor a database server is asked.

    Raises
    ------
    InputError
        If the address is neither a database's nor a server's: folders, which MLflow takes too, hold a point as often as it is sent.
        If the file of an SQLite database is not one, or cannot be made or written.
    """
    fix = "give one like sqlite:///FILE, postgresql://HOST/NAME or http://HOST:PORT"
    try:
        parts = urlsplit(uri)
        server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or host
        raise InputError(f"{URI_VARIABLE}: the address is not one; {fix}") from None
    name = f"{URI_VARIABLE} {without_credentials(uri)}"
    if parts.scheme.partition("+")[0] not in DATABASES and not server:
        raise InputError(f"{name}: is neither a database nor a server; {fix}")
    if parts.scheme.startswith("sqlite"):
        file = _sqlite_file(uri)
        if file is None:
            raise InputError(f"{name}: names no file; {fix}")
        _check_sqlite(file, name)


def _sqlite_file(uri: str) -> Path | None:
    """File of an SQLite address; none if it names none."""
    path = uri.partition("?")[0].partition(":///")[2]
    return Path(path) if path and path != ":memory:" else None


def _check_sqlite(file: Path, name: str) -> None:
    folder = file.parent
    if not file.exists():
        if not folder.is_dir() and folder != RESULTS:
            raise InputError(f"{name}: there is no folder {folder}; make it, or give the address of another file")
        if folder.is_dir():
            require_writable(folder)
        return
    require_file(file)
    with file.open("rb") as content:
        if content.read(len(SQLITE)) not in (b"", SQLITE):
            raise InputError(f"{name}: {file} is not an SQLite database; give the address of one, or of a file that is not there yet")
    if not os.access(file, os.W_OK):
        raise InputError(f"{name}: {file} is read-only for this user; make it writable, or give the address of another file")


def _lock_of(file: Path) -> Path:
    """Path of the lock of an SQLite database: next to it among our results, and away from third-party files."""
    if file.parent == RESULTS.resolve():
        RESULTS.mkdir(parents=True, exist_ok=True)
        return file.with_name(f".{file.name}.lock")
    folder = Path(tempfile.gettempdir(), f"m2mkd-stores-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{hashlib.sha256(str(file).encode()).hexdigest()[:16]}.lock"


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Hold a database for this process: of several that open a fresh one at once, all but one would fail in MLflow."""
    if file := _sqlite_file(uri) if uri.startswith("sqlite") else None:
        with hold(_lock_of(file.resolve())):
            yield
    elif uri.startswith("postgresql"):
        import sqlalchemy

        number = int.from_bytes(hashlib.sha256(b"m2mkd").digest()[:8], signed=True)
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        # Released with the connection, also if this process is killed.
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("select pg_advisory_lock(:number)"), {"number": number})
            yield
    else:
        yield
