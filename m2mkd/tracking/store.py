"""Experiment of an MLflow store, which any number of processes on any number of machines may write at once.

MLflow makes a new run at every request and stores a number as often as it is sent, and a server offers no lock.
Four rules replace the lock:

- **A point is always the same row.** Its time is the start of its run plus one millisecond for every step, so that every process sends
  the same bytes; the primary key of MLflow's table (run, name, step, value, time) then holds it once, and MLflow drops the second.
- **A process that makes a run looks again.** A run is found by its tags. A process that finds none makes one, writes, and finally lists
  the store again: it is done only if every identity has one run, its own, whole. If there are more, all but one are deleted, and it
  begins again. Of several processes the last to list has seen every run that any of them made, so that in the end each is there once.
- **A run is never mixed.** A run made from other files has another ``record`` and is replaced, not changed. One that a training mirrors
  to has none yet; it is taken over only if each of its points is among those of the files.
- **A row belongs to the study that wrote it.** A later study that has the same row, with the same numbers, adds its key to the tag
  ``studies`` and changes nothing else, and runs stay below the row that they are below.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from m2mkd.errors import InputError
from m2mkd.files import publish, write_atomically
from m2mkd.tracking.address import DATABASE, DEFAULT_URI, artifact_folder, is_database, open_client, store_uri, without_credentials
from m2mkd.tracking.entry import (
    IDENTITY,
    PARENT_TAG,
    RECORD_TAG,
    STUDIES_TAG,
    STUDY_TAG,
    Artifact,
    Entry,
    Point,
    TrackedDataset,
    identity_of,
    origin,
    rewritten,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
PROXY = "mlflow-artifacts:/"
"""Prefix of artifact addresses that the server resolves (``mlflow server --artifacts-destination results/mlruns``). MLflow's own
addresses are absolute, and break when the project moves."""
METRICS_PER_BATCH, PARAMS_PER_BATCH = 900, 100
FINISHED = "FINISHED"
ATTEMPTS = 6
"""Most tries of a call that the database could not serve because of another process's call."""
PASSING = ("TEMPORARILY_UNAVAILABLE", "BAD_REQUEST")
"""MLflow's codes for a locked database, and for two inserts of the same row."""
COST = "cost/"
"""Beginning of the names of a row's costs, which depend on the runs that a study shows below it; its other numbers do not."""


class ContestedError(Exception):
    """Another process deleted or filled a run while this one wrote it; look again."""


class Store:
    """Experiment of a store."""

    def __init__(self, client: "MlflowClient", experiment: str):
        from mlflow.exceptions import MlflowException

        self.client, self.database = client, is_database(store_uri())
        # A server itself decides where its artifacts are; in a database they are only an address.
        location = PROXY + experiment.replace("/", "-") if self.database else None
        found = client.get_experiment_by_name(experiment)
        if found is None:
            with suppress(MlflowException):  # another process may have been first
                client.create_experiment(experiment, artifact_location=location)
            found = client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage != "active":
            raise InputError(f"MLflow experiment {experiment} is deleted; run 'mlflow gc' or 'mlflow experiments restore' on the store")
        self.experiment_id = str(found.experiment_id)
        self.listed: dict[tuple[str, ...], list[Run]] = {}

    def look(self) -> None:
        """List the runs of the store."""
        self.listed = {}
        for run in self._search(""):
            self.listed.setdefault(identity_of(run.data.tags), []).append(run)

    def find(self, entry: Entry) -> "list[Run]":
        """Runs of the identity of an entry that are there now, always in the same order."""
        wanted = zip(IDENTITY, entry.identity, strict=True)
        return self._search(" and ".join(f"tags.{name} = '{value}'" for name, value in wanted if value))

    def _search(self, filter_string: str) -> "list[Run]":
        found: list[Run] = []
        token, seen = None, set()
        while True:
            page = self.client.search_runs([self.experiment_id], filter_string, max_results=1000, page_token=token)
            found += page
            token = page.token
            if token in seen:
                raise InputError("MLflow store: gives the same page again and again; check MLFLOW_TRACKING_URI")
            seen.add(token)
            if not token:
                return sorted(found, key=lambda run: run.info.run_id)

    def tags_of(self, entry: Entry) -> dict[str, str]:
        """Tags of the run of an entry's identity, as last listed; empty if it is not there."""
        return next((dict(run.data.tags) for run in self.listed.get(entry.identity, ())), {})

    def parent_of(self, entry: Entry) -> str | None:
        """Id of the row that a run is below, as last listed; none if it is not there, or that row is gone."""
        rows = {run.info.run_id for runs in self.listed.values() for run in runs if run.data.tags.get("level") == "row"}
        parent = self.tags_of(entry).get(PARENT_TAG)
        return parent if parent in rows else None

    def put(self, entry: Entry) -> tuple[str, str]:
        """Bring a run into the store whole, unless it is there, as it was last listed.

        Returns
        -------
        tuple
            Its id in the store, and its record there, which is another study's if that wrote the row.

        Raises
        ------
        ContestedError
            If another process interfered.
        """
        found = self.listed.get(entry.identity, [])
        kept = next((run for run in found if run.data.tags.get(RECORD_TAG) == entry.tags[RECORD_TAG]), None)
        kept = kept or next((run for run in found if self._is_of_another_study(run, entry)), None)
        mirrored = kept is None and next((run for run in found if self._can_become(run, entry)), None)
        kept = kept or mirrored or None
        for run in [run for run in found if run is not kept]:
            self.client.delete_run(run.info.run_id)
            found.remove(run)
        if kept is None:
            kept = self.client.create_run(self.experiment_id, start_time=entry.start, tags=entry.all_tags, run_name=entry.name)
        run_id = str(kept.info.run_id)
        try:
            if kept.info.status == FINISHED and not mirrored:
                self._update(kept, entry)
            else:
                self._fill(kept, entry)
        except Exception as error:
            if self.is_deleted(run_id):
                raise ContestedError from error
            raise
        return run_id, str(kept.data.tags.get(RECORD_TAG) or entry.tags[RECORD_TAG])

    def _update(self, run: "Run", entry: Entry) -> None:
        """Bring tags, texts and data sets of a run up to date; its numbers are the same."""
        there = run.data.tags
        wanted = entry.tags | rewritten(entry, there)
        if there.get(RECORD_TAG) != entry.tags[RECORD_TAG]:
            wanted = {}
        if STUDIES_TAG in entry.tags:
            studies = " ".join(there.get(name, "") for name in (STUDIES_TAG, STUDY_TAG)).split()
            wanted[STUDIES_TAG] = " ".join(dict.fromkeys([*studies, entry.tags[STUDIES_TAG]]))
            if there.get(STUDY_TAG):
                wanted.pop(STUDY_TAG, None)
        if changed := {name: value for name, value in wanted.items() if there.get(name) != value}:
            self.set_tags(run.info.run_id, changed)
        seen = {one.dataset.name for one in run.inputs.dataset_inputs} if run.inputs else set()
        self.log_datasets(run.info.run_id, [item for item in entry.datasets if str(item.data) not in seen])

    def _is_of_another_study(self, run: "Run", entry: Entry) -> bool:
        """True for a whole row that another study wrote, with the same numbers apart from its costs."""
        written_by = run.data.tags.get(STUDY_TAG)
        if run.info.status != FINISHED or STUDY_TAG not in entry.tags or written_by in (None, entry.tags[STUDY_TAG]):
            return False
        there = {point for point in self._points(run.info.run_id) if not point.name.startswith(COST)}
        return there == {point for point in entry.points if not point.name.startswith(COST)}

    def _fill(self, run: "Run", entry: Entry) -> None:
        run_id = run.info.run_id
        self.log_points(run_id, run.info.start_time, entry.points, entry.params)
        self.log_datasets(run_id, entry.datasets)
        self._put_artifacts(run, entry.artifacts)
        if RECORD_TAG not in run.data.tags:
            # Two machines that computed the same run may have taken over the same mirrored one.
            if not self._holds_only(run_id, entry.points):
                self.client.delete_run(run_id)
                raise ContestedError
            self.set_tags(run_id, entry.tags | rewritten(entry, run.data.tags))
        self.client.set_terminated(run_id, FINISHED, end_time=entry.end)

    def _can_become(self, run: "Run", entry: Entry) -> bool:
        return RECORD_TAG not in run.data.tags and self._holds_only(run.info.run_id, entry.points)

    def _holds_only(self, run_id: str, points: Iterable[Point]) -> bool:
        """True if every point of a run is one of these, and there once."""
        there = self._points(run_id)
        return set(there) <= set(points) and len(set(there)) == len(there)

    def _points(self, run_id: str) -> list[Point]:
        names = self.client.get_run(run_id).data.metrics
        return [Point(name, metric.value, metric.step) for name in names for metric in self.client.get_metric_history(run_id, name)]

    def holds(self, entries: Iterable[tuple[str, str]]) -> bool:
        """True if, listed again, each of these ids and records is the only run of its identity, and whole."""
        self.look()
        alone = {runs[0].info.run_id: runs[0] for runs in self.listed.values() if len(runs) == 1}
        return all(
            run_id in alone and alone[run_id].info.status == FINISHED and alone[run_id].data.tags.get(RECORD_TAG) == record
            for run_id, record in entries
        )

    def is_deleted(self, run_id: str) -> bool:
        """True if a run was deleted."""
        return bool(self.client.get_run(run_id).info.lifecycle_stage == "deleted")

    def log_points(self, run_id: str, start: int, points: Sequence[Point], params: "dict[str, str] | None" = None) -> None:
        """Send points and parameters in few batches; those that are there already are not doubled.

        Parameters
        ----------
        run_id
            The run.
        start
            Its start in milliseconds since 1970, as the store has it.
        points, params
            Points and parameters to send.
        """
        from mlflow.entities import Metric, Param

        metrics: list[Metric] = [Metric(name, value, start + step, step) for name, value, step in points]
        sent = [Param(name, value) for name, value in (params or {}).items()]
        for some, few in zip_longest(_chunks(metrics, METRICS_PER_BATCH), _chunks(sent, PARAMS_PER_BATCH), fillvalue=()):
            persistently(partial(self.client.log_batch, run_id, metrics=some, params=few))

    def set_tags(self, run_id: str, tags: "dict[str, str]") -> None:
        """Set several tags of a run."""
        from mlflow.entities import RunTag

        persistently(partial(self.client.log_batch, run_id, tags=[RunTag(name, value) for name, value in tags.items()]))

    def log_datasets(self, run_id: str, datasets: Iterable[TrackedDataset]) -> None:
        """Note the data sets that a run read."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=str(item.data),
                    digest=item.digest[:36],  # as much as MLflow takes
                    source_type="prepared",
                    source=json.dumps(origin(item.data)),
                    profile=json.dumps({"image_size": item.data.image_size, "classes": item.data.classes, "digest": item.digest}),
                ),
                [InputTag("mlflow.data.context", item.context)],
            )
            for item in datasets
        ]
        if inputs:
            persistently(partial(self.client.log_inputs, run_id, datasets=inputs))

    def _put_artifacts(self, run: "Run", artifacts: "dict[str, Artifact]") -> None:
        address = str(run.info.artifact_uri)
        if self.database and address.startswith(PROXY):
            _lay(artifacts, artifact_folder() / address.removeprefix(PROXY))
        elif artifacts:
            with TemporaryDirectory() as folder:
                _lay(artifacts, Path(folder))
                self.client.log_artifacts(run.info.run_id, folder)


def _lay(artifacts: "dict[str, Artifact]", folder: Path) -> None:
    for name, content in artifacts.items():
        if isinstance(content, Path):
            publish(content, folder / name)
        else:
            write_atomically(folder / name, content)


def persistently(call: Callable[[], T]) -> T:
    """Result of a call that may be repeated, which is tried again if another process's call was in its way."""
    from mlflow.exceptions import MlflowException
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    in_the_way = retry_if_exception(lambda error: isinstance(error, MlflowException) and error.error_code in PASSING)
    return Retrying(retry=in_the_way, stop=stop_after_attempt(ATTEMPTS), wait=wait_random_exponential(0.1, max=10), reraise=True)(call)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


@contextmanager
def open_store(experiment: str) -> Iterator[Store]:
    """Open an experiment of the store, made if it is not there.

    Raises
    ------
    InputError
        As `connected`.
    """
    with connected() as client:
        yield Store(client, experiment)


@contextmanager
def connected() -> "Iterator[MlflowClient]":
    """Open the store.

    Raises
    ------
    InputError
        If the store cannot be reached or is of another version of MLflow.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = store_uri()
    try:
        yield open_client()
    except (MlflowException, SQLAlchemyError) as error:
        reason = (
            (str(error).strip().splitlines() or [type(error).__name__])[0]
            .replace(str(DATABASE.resolve()), str(DATABASE))
            .replace(uri, without_credentials(uri))
        )
        fix = (
            f"if it is damaged, remove {DATABASE} and run 'm2mkd track sync' again, which fills it from the runs"
            if uri == DEFAULT_URI
            else "check MLFLOW_TRACKING_URI"
        )
        raise InputError(f"MLflow store {without_credentials(uri)}: {reason}; {fix}") from None
