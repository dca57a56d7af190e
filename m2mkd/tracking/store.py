"""The MLflow store: where it is, and what is already in it."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from m2mkd.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

RESULTS = Path("results")
DATABASE = RESULTS / "mlflow.db"
DEFAULT_URI = f"sqlite:///{DATABASE}"
ARTIFACTS = RESULTS / "mlruns"
PROXY = "mlflow-artifacts:/"
"""MLflow stores absolute artifact addresses, which break when the project moves; an address behind this prefix is resolved by
whoever serves the store (``mlflow server --artifacts-destination results/mlruns``)."""
METRICS_PER_BATCH, PARAMS_PER_BATCH = 900, 100
FINISHED = "FINISHED"


def store_uri() -> str:
    """Address of the store: ``MLFLOW_TRACKING_URI``, or the database in ``results``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def without_credentials(uri: str) -> str:
    """An address without user name, password and query."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    # An empty authority is kept: sqlite:///path.
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if host else uri.partition("?")[0]


@dataclass
class Entry:
    """What one MLflow run is to hold."""

    name: str
    tags: dict[str, str]
    """Beside others ``level``, ``key`` and ``slot``, which identify it, and ``record``, the digest of what it was made from."""
    params: dict[str, str] = field(default_factory=dict)
    metrics: "list[Metric]" = field(default_factory=list)
    start: int = 0
    end: int = 0
    """Milliseconds since 1970."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it the same run as one in the store."""
        return _identity(self.tags)


def _identity(tags: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(tags.get(name, "") for name in ("level", "key", "slot"))


class Store:
    """One experiment of an MLflow store, which this process alone writes."""

    def __init__(self, client: "MlflowClient", experiment: str):
        self.client = client
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise InputError(f"MLflow experiment {experiment} is deleted; run 'mlflow gc' or 'mlflow experiments restore' on the store")
        # A server decides itself where its artifacts lie; to a database they are nothing but an address.
        self.database = any(store_uri().startswith(kind) for kind in ("sqlite", "postgresql", "mysql", "mssql"))
        location = PROXY + experiment.replace("/", "-") if self.database else None
        self.experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=location)
        self.runs: dict[tuple[str, ...], Run] = {}
        for run in self._all_runs():
            self.runs.setdefault(_identity(run.data.tags), run)

    def _all_runs(self) -> "Iterator[Run]":
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def put(self, entry: Entry, replace: bool = False) -> str:
        """Bring a run into the store, unless it is there, finished, and made from the same record.

        Parameters
        ----------
        entry
            What to write.
        replace
            Whether an unfinished or outdated run is deleted and written anew; otherwise it is brought up to date in its place.

        Returns
        -------
        str
            Its id in the store.
        """
        run = self.runs.get(entry.identity)
        if run is not None and run.info.status == FINISHED and run.data.tags.get("record") == entry.tags["record"]:
            for name, value in entry.tags.items():
                if run.data.tags.get(name) != value:
                    self.client.set_tag(run.info.run_id, name, value)
            return str(run.info.run_id)
        if run is not None and replace:
            self.client.delete_run(run.info.run_id)
            run = None
        if run is None:
            run = self.client.create_run(self.experiment_id, start_time=entry.start, tags=entry.tags, run_name=entry.name)
            self.runs[entry.identity] = run
        elif run.info.status == FINISHED:  # until it is up to date again
            self.client.update_run(run.info.run_id, status="RUNNING")
        run_id = str(run.info.run_id)
        self._write(run_id, entry)
        return run_id

    def _write(self, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Param, RunTag

        params = [Param(name, value) for name, value in entry.params.items()]
        batches = zip_longest(_chunks(entry.metrics, METRICS_PER_BATCH), _chunks(params, PARAMS_PER_BATCH), fillvalue=())
        for metrics, some_params in batches:
            self.client.log_batch(run_id, metrics=metrics, params=some_params)
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in entry.tags.items()])

    def finish(self, run_id: str, entry: Entry) -> None:
        """Mark a run as complete; until then the next synchronisation takes it for half-written."""
        if not self.is_finished(entry):
            self.client.set_terminated(run_id, FINISHED, end_time=entry.end)

    def is_finished(self, entry: Entry) -> bool:
        """Whether the store held the run, complete and made from the same record, when it was opened."""
        run = self.runs.get(entry.identity)
        return run is not None and run.info.status == FINISHED and run.data.tags.get("record") == entry.tags["record"]

    def put_artifacts(self, run_id: str, files: Sequence[Path]) -> None:
        """Add files to a run."""
        address = str(self.client.get_run(run_id).info.artifact_uri)
        for file in files:
            if self.database and address.startswith(PROXY):
                target = ARTIFACTS / address.removeprefix(PROXY) / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            else:
                self.client.log_artifact(run_id, str(file))


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


@contextmanager
def open_store(experiment: str) -> Iterator[Store]:
    """The store, made or brought into being by this process alone: several that start on a fresh database break each other.

    Raises
    ------
    InputError
        If the store cannot be reached or is of another version of MLflow.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    RESULTS.mkdir(exist_ok=True)
    with FileLock(RESULTS / ".mlflow.lock"):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        uri = store_uri()
        # MLflow keeps a store open by its address, which must not mean another file in another working directory.
        address = f"sqlite:///{DATABASE.resolve()}" if uri == DEFAULT_URI else uri
        try:
            yield Store(MlflowClient(address), experiment)
        except (MlflowException, SQLAlchemyError) as error:
            reason = str(error).strip().splitlines()[0].replace(address, without_credentials(uri))
            mend = (
                f"if it is damaged, remove {DATABASE} and run 'm2mkd track sync' again, which fills it from the runs"
                if uri == DEFAULT_URI
                else "check MLFLOW_TRACKING_URI"
            )
            raise InputError(f"MLflow store {without_credentials(uri)}: {reason}; {mend}") from None
