"""What people read in the store: names, descriptions, data, saved views; and that stores of earlier versions and other studies are kept."""

import json
import sqlite3
from pathlib import Path
from urllib.parse import unquote

import pytest

from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.tracking.mlflow_export import sync
from m2mkd.tracking.serve import addresses
from tests.fabricated import plan, publish
from tests.unit.tracking.stored import counts, experiment_tags, names, numbers, query, tags

ROW = "m2mKD, V-MoE"


def change(text: str, *values: str) -> None:
    with sqlite3.connect("results/mlflow.db") as connection:
        connection.execute(text, values)


def row_named(name: str) -> dict[str, str]:
    (found,) = [row for row in tags("row") if row["mlflow.runName"] == name]
    return found


def test_rows_tell_their_accuracy_their_data_and_their_scale(synced):
    row = row_named(ROW)
    assert row["IID top-1"] == "91.00 ± 12.71 %"
    note = row["mlflow.note.content"]
    assert "mean over 2 seeds" in note and "Smoke test on handwritten digits" in note and "IID top-1 91.00 ± 12.71 %" in note
    seen = query(f"select d.name from inputs i join datasets d on d.dataset_uuid = i.source_id where i.destination_id = '{row['id']}'")
    assert sorted(name for (name,) in seen) == ["digits-r@32", "digits@32"]


def test_nothing_calls_digits_photographs(synced):
    texts = [text for (text,) in query("select value from tags where key in ('mlflow.note.content', 'mlflow.runName')")]
    texts.append(experiment_tags()["mlflow.note.content"])
    assert len(texts) > 100 and "handwritten digits" in texts[-1]
    assert not [text for text in texts if "ImageNet" in text or "photographs" in text.lower()]


def test_the_saved_view_has_the_rows_of_the_study_by_accuracy(synced):
    view = json.loads(experiment_tags()[f"mlflow.sharedViewState.{synced.key}"])
    assert view["searchFilter"] == f"tags.level = 'row' and tags.studies LIKE '%{synced.key}%'"
    assert view["orderByKey"] == "metrics.`final/iid_top1`" and view["orderByAsc"] is False
    assert view["selectedColumns"][:2] == ["tags.`IID top-1`", "tags.`OOD top-1`"]
    assert set(view["selectedColumns"]) < set(view["columnOrder"]) == set(view["columnWidths"])


def test_addresses_lead_to_the_view_and_to_two_rows(synced):
    scale, rows, *curves = addresses("http://127.0.0.1:1")
    assert scale == "m2mkd/smoke" and f"viewStateShareKey={synced.key}&workflowType=machine_learning" in rows
    compared = sorted(row_named(name)["id"] for name in ("end to end, NAC Scale-Free", "m2mKD, NAC Scale-Free"))
    (address,) = curves
    assert all(run_id in unquote(address) for run_id in compared) and "val_top1" in address


def test_a_store_of_an_earlier_version_is_brought_up_to_date_in_place(synced):
    expected, ids, shown = numbers(), names("row") | names("run"), [row["mlflow.note.content"] for row in tags("row")]
    change("update runs set name = 'train_student seed 0' where name like 'm2mKD, V-MoE, seed 0'")
    change("update tags set value = 'train_student seed 0' where key = 'mlflow.runName' and value = 'm2mKD, V-MoE, seed 0'")
    change("update runs set name = 'vmoe_base/m2mkd' where name = ?", ROW)
    change("update tags set value = 'vmoe_base/m2mkd' where key = 'mlflow.runName' and value = ?", ROW)
    change("update tags set value = 'V-MoE-Base on ImageNet-1k' where key = 'mlflow.note.content' and value like '%**m2mKD, V-MoE**%'")
    change("delete from tags where key like 'written.%' or key in ('studies', 'IID top-1', 'OOD top-1')")
    change("delete from inputs where destination_id in (select run_uuid from tags where key = 'level' and value = 'row')")
    change("delete from experiment_tags")
    sync(Results.read(synced))
    assert numbers() == expected and names("row") | names("run") == ids
    assert [row["mlflow.note.content"] for row in tags("row")] == shown and row_named(ROW)["studies"] == synced.key
    assert query("select count(*) from runs where lifecycle_stage = 'deleted'") == [(0,)]
    test_rows_tell_their_accuracy_their_data_and_their_scale(synced)
    test_the_saved_view_has_the_rows_of_the_study_by_accuracy(synced)


def test_what_people_wrote_stays(synced):
    change("update tags set value = 'my best' where key = 'mlflow.runName' and value = ?", ROW)
    change("update tags set value = 'see the log book' where key = 'mlflow.note.content' and value like '%**m2mKD, V-MoE**%'")
    change("update experiment_tags set value = 'ours' where key = 'mlflow.note.content'")
    before = counts()
    sync(Results.read(synced))
    assert row_named("my best")["mlflow.note.content"] == "see the log book" and counts() == before
    assert experiment_tags()["mlflow.note.content"] == "ours"


@pytest.fixture
def later(synced):
    """Another study that has some of its rows, with the modules that they share below another row."""
    study = plan(Path.cwd(), "smoke", ["nac_tiny_imagenet_ring_of_cliques", "vmoe_base/m2mkd"], seeds=2)
    assert study.key != synced.key and set(study.runs) < set(synced.runs)
    compile_tables(Results.read(study))
    return study


def test_rows_are_kept_when_a_later_study_shares_runs(synced, later):
    rows, before = {row["id"]: row for row in tags("row")}, numbers()
    parents = {run["key"]: run["mlflow.parentRunId"] for run in tags("run")}
    used_by = {run["key"]: run["used_by"] for run in tags("run")}
    sync(Results.read(later))
    now = {row["id"]: row for row in tags("row")}
    assert set(now) == set(rows) and numbers() == before
    assert {run["key"]: run["mlflow.parentRunId"] for run in tags("run")} == parents
    assert all(set(used_by[run["key"]].split("; ")) <= set(run["used_by"].split("; ")) for run in tags("run"))
    shared = {row["row"] for row in now.values() if row["studies"] == f"{synced.key} {later.key}"}
    assert {str(row.name) for row in later.rows} <= shared and all(row["study"] == synced.key for row in now.values())
    assert experiment_tags()["study"] == later.key
    compile_tables(Results.read(synced))  # as every study is before it is exported
    sync(Results.read(synced))
    assert {row["id"] for row in tags("row")} == set(rows) and experiment_tags()["study"] == synced.key


def test_a_shared_row_with_other_numbers_is_replaced(synced, later):
    row = row_named(ROW)
    measured = next(later.runs[found.measured[0]] for found in later.rows if found.experiment == "vmoe_base")
    publish(later, measured, 0.11)
    compile_tables(Results.read(later))
    sync(Results.read(later))
    assert row["id"] not in {found["id"] for found in tags("row")}
