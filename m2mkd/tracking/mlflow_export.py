"""Replaying the finished runs of a study into MLflow.

The files of the runs are the truth; the store is a view on them, which can be filled again at any time, from any machine, by any number
of processes (see :mod:`m2mkd.tracking.store`). One MLflow experiment holds a scale. In it stand

- a run for the study, with the tables as artifacts;
- a run for each row of the tables (experiment, variant, profile) with mean, standard deviation and 95 % interval over seeds, the mean
  learning curves, and figures;
- below it a run for each seed of each phase that the row depends on. That of a final student is also a version in the model registry.

Each run of the workflow is logged once: a teacher's below the row of its experiment, one that several rows share (the NAC
modules of all priors) below the first of them in the study. Its tag ``used_by`` names all rows of the study synchronised last
that need it. ``final/`` holds what a run measured at its end, which is what the tables report, ``best/`` the best epoch, and ``cost/``
what it took.
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
from m2mkd.tracking.entry import RECORD_TAG, Entry
from m2mkd.tracking.finished import STUDENT, own_records, record_entry, row_entry, study_entry, version_tags
from m2mkd.tracking.registry import model_name, register
from m2mkd.tracking.store import ContestedError, Store, open_store

TAG_LENGTH = 5000
"""Longer tag values are cut; MLflow refuses them at some point."""
ROUNDS = 12
"""How often it begins again where other processes write the same runs."""


def sync(results: Results) -> None:
    """Bring every finished run of a study into the MLflow store, once.

    A run that is there already, complete and from the same record, is left alone; of one that a training mirrored to, or an interruption
    left half-written, what is missing is added; one whose files have changed since is replaced. At the end ``tracking.json`` says how many
    runs of the workflow the store holds.

    Parameters
    ----------
    results
        What is there. If it is partial, no tables are taken, and ``tracking.json`` is not written, so that the workflow will do the rest.

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
                    break
            except ContestedError:
                pass
            time.sleep(random.uniform(0, 1))
        else:
            raise InputError(f"MLflow store {address}: others keep on changing the same runs; run the command again")
    if not results.partial:
        write_json(Path(study.pages) / "tracking.json", {"study": study.key, "store": address, "runs": len(records)})


def _tables(study: Study) -> list[Path]:
    folder = Path(study.pages) / "tables"
    if not Path(study.receipt).is_file():
        raise InputError(f"{folder}: not the tables of study {study.key}; run 'm2mkd compile' with the same arguments first")
    # Not whatever lies there: the receipt of the report may, or may not, be there yet.
    return [*(Path(study.pages, name) for name in read_receipt(Path(study.receipt))["shown"]), Path(study.receipt)]


def _put_all(store: Store, results: Results, tables: list[Path]) -> list[tuple[str, str]]:
    """Bring everything into the store, and give ids and records of what is there now."""
    study, records = results.study, results.every_record
    written = []

    def put(entry: Entry) -> str:
        run_id = store.put(entry)
        written.append((run_id, entry.tags[RECORD_TAG]))
        return run_id

    if tables:
        put(study_entry(study, records, tables))
    planned = planned_runs(study)
    grouped: dict[RowName, list[Record]] = {row.name: [] for row in study.rows}
    for record in records:
        grouped.setdefault(planned[record.run.id].row, []).append(record)
    served = {run_id: "; ".join(str(row.name) for row in rows) for run_id, rows in results.served.items()}
    for row_name, members in grouped.items():
        own = own_records(results, row_name)
        if not members and not own:
            continue
        parent_id = put(row_entry(study, row_name, members, own, with_deviations(results, row_name)))
        for record in members:
            child = record_entry(planned[record.run.id], record)
            child.tags |= {"used_by": served[record.run.id][:TAG_LENGTH], "mlflow.parentRunId": parent_id}
            run_id = put(child)
            if record.run.phase == STUDENT:
                register(store, model_name(study.scale_name, row_name), run_id, child.tags | version_tags(record, own))
    return written
