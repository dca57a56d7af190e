"""Pages of MLflow that people open: a saved view of a study's rows by accuracy, and the learning curves of two rows."""

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

from m2mkd.config.compat import Profile
from m2mkd.study.keys import digest
from m2mkd.study.run import RowName
from m2mkd.study.study import Study
from m2mkd.tracking.entry import NOTE_TAG, STUDIES_TAG, STUDY_TAG, WRITTEN
from m2mkd.tracking.notes import ACCURACY_TAGS, experiment_note
from m2mkd.tracking.store import Store, persistently

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

VIEW_TAG = "mlflow.sharedViewState."
"""Beginning of the tags of an experiment that hold saved views as JSON; the rest is the view's key in an address."""
COMPARED_TAG = "compared"
"""Tag of an experiment with the ids of the two rows whose curves are compared."""
CURVE = "val_top1"
"""Learning curve in which rows are compared."""
TRAINING = {"workflowType": "machine_learning"}
"""Part of an address; without it a new browser opens MLflow's pages for language models."""
FIXED_WIDTHS = {"attributes.`Run Name`": 300, "runDateAndNestInfo": 120, "attributes.`Dataset`": 190, "duration": 80}
TEXT_WIDTH, NUMBER_WIDTH = 145, 100
"""Widths of columns in pixels."""


def save_views(store: Store, study: Study) -> None:
    """Save a study's description, the view of its rows, and the pair of them that is compared.

    Parameters
    ----------
    store
        The study's experiment, as listed after all runs were brought there.
    study
        The study.
    """
    rows = rows_of(store, study.key)
    experiment = store.client.get_experiment(store.experiment_id)
    note = experiment_note(study)
    wanted = {
        "mlflow.experimentKind": "custom_model_development",
        VIEW_TAG + study.key: json.dumps(rows_view(study.key, list(rows.values()))),
        STUDY_TAG: study.key,
        COMPARED_TAG: " ".join(_compared(study, rows)),
    }
    there = experiment.tags.get(NOTE_TAG, "")
    if not there or experiment.tags.get(WRITTEN[NOTE_TAG]) == digest([there]):
        wanted |= {NOTE_TAG: note, WRITTEN[NOTE_TAG]: digest([note])}
    for name, value in wanted.items():
        if experiment.tags.get(name) != value:
            persistently(partial(store.client.set_experiment_tag, store.experiment_id, name, value))


def rows_of(store: Store, study_key: str) -> "dict[RowName, Run]":
    """Rows of a study, as last listed."""
    rows = [run for found in store.listed.values() for run in found if run.data.tags.get("level") == "row"]
    named = [(run.data.tags, run) for run in rows if study_key in run.data.tags.get(STUDIES_TAG, "").split()]
    return {RowName(tags["experiment"], tags["variant"], cast(Profile, tags["profile"])): run for tags, run in named}


def rows_view(study_key: str, rows: "list[Run]") -> dict[str, Any]:
    """State of MLflow's list of runs: the rows of a study by accuracy, with the columns that they have."""
    texts = [tag for tag in ACCURACY_TAGS.values() if any(tag in row.data.tags for row in rows)]
    numbers = [f"final/{name}" for name in ACCURACY_TAGS if any(f"final/{name}" in row.data.metrics for row in rows)]
    widths = {f"tags.`{tag}`": TEXT_WIDTH for tag in texts} | {f"metrics.`{name}`": NUMBER_WIDTH for name in numbers}
    name, *others = FIXED_WIDTHS
    return {
        "searchFilter": f"tags.level = 'row' and tags.{STUDIES_TAG} LIKE '%{study_key}%'",
        "orderByKey": f"metrics.`{numbers[0]}`" if numbers else "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": [*widths, "attributes.`Dataset`"],
        "columnOrder": ["0", name, *widths, *others],  # 0: the boxes to tick
        "columnWidths": {"0": 73, **widths, **FIXED_WIDTHS},
    }


def _compared(study: Study, rows: "Mapping[RowName, Run]") -> list[str]:
    """Ids of the first student that the study trains end to end and by m2mKD, in the corrected profile if it has that."""
    for row in sorted(study.rows, key=lambda row: row.profile != "corrected"):
        pair = [row.name._replace(variant=variant) for variant in ("end_to_end", "m2mkd")]
        if row.name in pair and all(one in rows for one in pair):
            return [rows[one].info.run_id for one in pair]
    return []


def rows_address(server: str, experiment: "Experiment") -> str:
    """Address of the rows of the study that was exported last; of all runs, where an earlier version filled the store."""
    study = experiment.tags.get(STUDY_TAG)
    view = {"viewStateShareKey": study} if study else {}
    return f"{server}/#/experiments/{experiment.experiment_id}/runs?{urlencode({**view, **TRAINING})}"


def curves_address(server: str, experiment: "Experiment", metric: str = CURVE) -> str | None:
    """Address of the learning curves of the rows that are compared, by epoch; none where the study has no such pair."""
    compared = experiment.tags.get(COMPARED_TAG, "").split()
    if not compared:
        return None
    asked = {"runs": compared, "experiments": [experiment.experiment_id], "metric": metric, "plot_metric_keys": [metric]}
    words = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in asked.items())
    return f"{server}/#/metric?{words}&x_axis=step&{urlencode(TRAINING)}"
