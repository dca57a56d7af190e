"""Where the MLflow store is, and how to come to it first."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from m2mkd.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RESULTS = Path("results")
DATABASE = RESULTS / "mlflow.db"
DEFAULT_URI = f"sqlite:///{DATABASE}"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Beginnings of the addresses of databases, which are written to without a server between."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}


def store_uri() -> str:
    """Address of the store: ``MLFLOW_TRACKING_URI``, or the database in ``results``."""
    return os.environ.get(URI_VARIABLE) or DEFAULT_URI


def set_default_tracking_uri(uri: str | None) -> dict[str, str]:
    """Let the address that the configuration names hold for this process and those that it starts, unless ``MLFLOW_TRACKING_URI`` is set.

    Returns
    -------
    dict
        The variable, for others; empty where neither names one.
    """
    if uri:
        os.environ.setdefault(URI_VARIABLE, uri)
    return {URI_VARIABLE: os.environ[URI_VARIABLE]} if os.environ.get(URI_VARIABLE) else {}


def artifact_folder() -> Path:
    """Where artifacts lie that this process stores itself: MLflow's own ``MLFLOW_ARTIFACTS_DESTINATION``, or ``results/mlruns``."""
    return Path(os.environ.get("MLFLOW_ARTIFACTS_DESTINATION") or RESULTS / "mlruns")


def is_database(uri: str) -> bool:
    """Whether an address is that of a database; otherwise it is a server's."""
    return uri.startswith(DATABASES)


def without_credentials(uri: str) -> str:
    """An address without user name, password and query."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    # An empty authority is kept: sqlite:///path.
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if host else uri.partition("?")[0]


def open_client() -> "MlflowClient":
    """A client of the store, whose tables are made if it is a fresh database.

    Raises
    ------
    InputError
        If the address is neither a database's nor a server's: folders, which MLflow takes too, hold a point as often as it is sent.
    MlflowException, SQLAlchemyError
        If it cannot be reached, is damaged or of another version of MLflow.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    uri = store_uri()
    if not is_database(uri) and urlsplit(uri).scheme not in ("http", "https"):
        fix = "give one like sqlite:///FILE, postgresql://HOST/NAME or http://HOST:PORT"
        raise InputError(f"{URI_VARIABLE} {without_credentials(uri)}: is neither a database nor a server; {fix}")
    from mlflow import MlflowClient

    # MLflow keeps a store open by its address, which must not mean another file in another working directory.
    address = f"sqlite:///{DATABASE.resolve()}" if uri == DEFAULT_URI else uri
    with _alone(address):
        return MlflowClient(address)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Hold a database for this process: of several that come to a fresh one at once, MLflow lets all but one die."""
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            yield
    elif uri.startswith("postgresql"):
        import sqlalchemy

        number = int.from_bytes(hashlib.sha256(b"m2mkd").digest()[:8], signed=True)
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        # Released with the connection, also where this process is killed.
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("select pg_advisory_lock(:number)"), {"number": number})
            yield
    else:
        yield
