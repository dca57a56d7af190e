"""Export of the finished runs of a study to MLflow.

The files of the runs are the truth; the store is a view of them, which can be filled again at any time, from any machine, by any number
of processes (see :mod:`m2mkd.tracking.store`). An MLflow experiment holds a scale. It has

- a run for the study, with the tables as artifacts;
- a run for each row of the tables (experiment, variant, profile) with mean, standard deviation and 95 % interval over seeds, the mean
  learning curves, and figures;
- below it a run for each seed of each phase that the row depends on. That of a final student is also a version in the model registry.

Each run of the workflow is logged once: a teacher's below the row of its experiment, one that several rows share (the NAC
modules of all priors) below the first of them in the study that logged it first. Its tag ``used_by`` names all rows that need it.
``final/`` holds the measurements at the end of a run, which the tables report, ``best/`` those of the best epoch, and ``cost/`` seconds,
memory and energy.
"""

import random
import time
from pathlib import Path

from m2mkd.errors import InputError
from m2mkd.files import write_json
from m2mkd.results.judge.results import Results
from m2mkd.results.read.records import Record
from m2mkd.results.tables.metrics import with_deviations
from m2mkd.study.files import planned_runs
from m2mkd.study.receipt import read_receipt
from m2mkd.study.run import RowName
from m2mkd.study.study import Study
from m2mkd.tracking.address import store_uri, without_credentials
from m2mkd.tracking.entry import PARENT_TAG, Entry
from m2mkd.tracking.finished import STUDENT, own_records, record_entry, row_entry, row_labels, study_entry, version_tags
from m2mkd.tracking.registry import model_name, register
from m2mkd.tracking.store import ContestedError, Store, open_store
from m2mkd.tracking.views import save_views

USED_BY = "used_by"
TAG_LENGTH = 5000
"""Longest value of a tag; longer ones lose names at their end, because MLflow refuses values that are too long."""
ROUNDS = 12
"""Most rounds while other processes write the same runs."""


def sync(results: Results) -> None:
    """Bring every finished run of a study into the MLflow store, once.

    A run that is there already, complete and from the same record, is left alone; of one that a training mirrored to, or an interruption
    left half-written, what is missing is added; one whose files have changed since is replaced. At the end ``tracking.json`` says how many
    runs of the workflow the store holds.

    Parameters
    ----------
    results
        The study's results. If they are partial, no tables are taken, and ``tracking.json`` is not written, so that the workflow does the
        rest.

    Raises
    ------
    InputError
        If a run or the tables are missing or of another configuration, unless the results are partial, or the store cannot be used.
    """
    address, study = without_credentials(store_uri()), results.study
    records = results.every_record
    tables = [] if results.partial else _tables(study)
    with open_store(f"m2mkd/{study.scale_name}") as store:
        for _ in range(ROUNDS):
            try:
                store.look()
                if store.holds(_put_all(store, results, tables)):
                    save_views(store, study)
                    break
            except ContestedError:
                pass
            time.sleep(random.uniform(0, 1))
        else:
            raise InputError(f"MLflow store {address}: other processes keep changing the same runs; run the command again")
    if not results.partial:
        write_json(Path(study.pages) / "tracking.json", {"study": study.key, "store": address, "runs": len(records)})


def _tables(study: Study) -> list[Path]:
    folder = Path(study.pages) / "tables"
    if not Path(study.receipt).is_file():
        raise InputError(f"{folder}: not the tables of study {study.key}; run 'm2mkd compile' with the same arguments first")
    # Not every file of the folder: the receipt of the report may be there already, or not.
    return [*(Path(study.pages, name) for name in read_receipt(Path(study.receipt))["shown"]), Path(study.receipt)]


def _put_all(store: Store, results: Results, tables: list[Path]) -> list[tuple[str, str]]:
    """Bring everything into the store, and return the ids and records of what is there now."""
    study, records = results.study, results.every_record
    written = [store.put(study_entry(study, records, tables))] if tables else []
    planned = planned_runs(study)
    grouped: dict[RowName, list[Record]] = {row.name: [] for row in study.rows}
    for record in records:
        grouped.setdefault(planned[record.run.id].row, []).append(record)
    labels = row_labels(study, grouped)
    entries = [(planned[record.run.id].row, record) for members in grouped.values() for record in members]
    children = [(record, record_entry(study, planned[record.run.id], record, labels[row])) for row, record in entries]
    row_ids = {}
    for row_name, members in grouped.items():
        own = own_records(results, row_name)
        if not members and not own:
            continue
        row = row_entry(study, row_name, labels[row_name], members, own, with_deviations(results, row_name))
        held = [store.parent_of(child) for record, child in children if planned[record.run.id].row == row_name]
        if not own and not store.tags_of(row) and all(held):
            continue  # it only holds runs, and rows of an earlier study hold all of them
        row_ids[row_name], row_record = store.put(row)
        written.append((row_ids[row_name], row_record))
    for record, child in children:  # after all rows, some of which may have been replaced
        written.append(_put_child(store, results, record, child, row_ids.get(planned[record.run.id].row, "")))
        if record.run.phase == STUDENT:
            row_name = planned[record.run.id].row
            tags = child.tags | version_tags(record, own_records(results, row_name))
            register(store, model_name(study.scale_name, row_name), written[-1][0], tags)
    return written


def _put_child(store: Store, results: Results, record: Record, child: Entry, row_id: str) -> tuple[str, str]:
    """Bring a run below the row that it is below already, or else below the row of that id."""
    users = [*filter(None, store.tags_of(child).get(USED_BY, "").split("; ")), *(str(row.name) for row in results.served[record.run.id])]
    parent = store.parent_of(child) or row_id
    if not parent:  # the row that held it was replaced in this round
        raise ContestedError
    child.tags |= {USED_BY: _joined(users), PARENT_TAG: parent}
    return store.put(child)


def _joined(users: list[str]) -> str:
    """Names of rows, each once, as many as a tag takes."""
    text = ""
    for user in dict.fromkeys(users):
        longer = f"{text}; {user}" if text else user
        if len(longer) > TAG_LENGTH:
            break
        text = longer
    return text
