"""Finished runs in the MLflow store: each once, whatever happened before."""

import json
import shutil
from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.tracking import store as store_module
from m2mkd.tracking.entry import flat
from m2mkd.tracking.figures import confusion_matrix
from m2mkd.tracking.mlflow_export import sync
from tests.fabricated import edit_record, first, plan, publish
from tests.unit.tracking.stored import counts, numbers, query, tags


def test_every_run_is_there_once(synced):
    found = tags("run")
    seeds = {run.key: None if run.seed is None else str(run.seed) for run in synced.runs.values()}
    assert sorted(run["key"] for run in found) == sorted(seeds)
    assert {run["key"]: run.get("seed") for run in found} == seeds and {None, "0", "1"} == set(seeds.values())
    assert json.loads(Path("results/smoke/tracking.json").read_text()) == {
        "study": synced.key,
        "store": "sqlite:///results/mlflow.db",
        "runs": len(synced.runs),
    }
    assert {status for (status,) in query("select status from runs")} == {"FINISHED"}
    assert all({"scale", "experiment", "variant", "profile", "phase", "used_by", "record"} <= set(run) for run in found)


def test_runs_stand_below_their_row(synced):
    rows = {row["id"]: row["row"] for row in tags("row")}
    parents = {run["key"]: rows[run["mlflow.parentRunId"]] for run in tags("run")}
    assert parents[first(synced, "pretrain_meta").key] == "teacher_deit_large/teacher (corrected)"
    nac = [run for run in tags("run") if run["phase"] == "distill_module" and "ring_of_cliques" in run["used_by"]]
    # Modules that two priors share are logged once, below the first of them.
    assert {rows[run["mlflow.parentRunId"]] for run in nac} == {"nac_tiny_imagenet_scale_free/m2mkd (corrected)"}
    assert all("nac_tiny_imagenet_scale_free/m2mkd (corrected)" in run["used_by"] for run in nac)


def test_numbers_of_rows_and_runs(synced):
    found = {(run["level"], run.get("row") or run["phase"]): run["id"] for run in [*tags("row"), *tags("run")]}
    row = dict(query(f"select key, value from metrics where run_uuid = '{found['row', 'vmoe_base/m2mkd (corrected)']}'"))
    assert row["final/iid_top1"] == pytest.approx(0.91) and row["final/iid_top1_std"] == pytest.approx(0.02 / 2**0.5)
    # Student's t with one degree of freedom: 12.706 standard errors to either side.
    assert (row["final/iid_top1_low"], row["final/iid_top1_high"]) == pytest.approx((0.91 - 0.12706, 0.91 + 0.12706), abs=1e-5)
    meta = query(f"select key, step, value from metrics where run_uuid = '{found['run', 'pretrain_meta']}' order by key, step")
    assert [(step, value) for key, step, value in meta if key == "loss"] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert ("final/val_top1", 3, 0.9) in meta and ("best/val_top1", 2, 0.91) in meta
    params = dict(query(f"select key, value from params where run_uuid = '{found['run', 'pretrain_meta']}'"))
    assert params["recipe.epochs"] == str(first(synced, "pretrain_meta").config.recipe.epochs)


def test_a_second_time_adds_nothing(synced):
    before = counts()
    sync(Results.read(synced))
    assert counts() == before


def test_rows_have_the_mean_learning_curves(synced):
    (row,) = [row["id"] for row in tags("row") if row["row"] == "vmoe_base/m2mkd (corrected)"]
    curves = query(f"select key, step, value from metrics where run_uuid = '{row}' and key in ('loss', 'val_top1') order by key, step")
    assert curves == [("loss", 1, 3.0), ("loss", 2, 1.5), ("loss", 3, 1.0), ("val_top1", 2, 0.92), ("val_top1", 3, 0.91)]


def test_what_a_run_saw_and_took(synced):
    (run,) = [run for run in tags("run") if run["phase"] == "pretrain_meta"]
    data = first(synced, "pretrain_meta").config.data
    seen = query(
        f"""select d.name, d.digest, t.value from inputs i join datasets d on d.dataset_uuid = i.source_id
        join input_tags t on t.input_uuid = i.input_uuid where i.destination_id = '{run["id"]}'"""
    )
    # MLflow keeps 36 characters.
    assert seen == [(str(data), json.loads(Path(data.manifest).read_text())["digest"][:36], "training")]
    assert dict(query(f"select key, value from metrics where run_uuid = '{run['id']}'"))["cost/seconds"] == pytest.approx(5, abs=4)
    assert {"hardware", "python", "package.torch"} <= set(run)


def test_what_a_run_recorded_of_memory_and_energy(synced):
    run = first(synced, "pretrain_meta")
    recorded = {"git_commit": "c0ffee", "git_dirty": False}
    recorded |= {"peak_memory_bytes": 2**31, "gpu_joules": 7200.0}
    edit_record(synced, run, lambda content: content["provenance"].update(recorded))
    compile_tables(Results.read(synced))
    sync(Results.read(synced))
    (found,) = [entry for entry in tags("run") if entry["key"] == run.key]
    assert (found["git_commit"], found["git_dirty"]) == ("c0ffee", "False")
    numbers = dict(query(f"select key, value from metrics where run_uuid = '{found['id']}'"))
    assert (numbers["cost/peak_memory_gib"], numbers["cost/gpu_energy_wh"]) == (2.0, 2.0)


@pytest.mark.parametrize("calls", [0, 40])
def test_a_killed_synchronisation_is_made_good(synced, monkeypatch, calls):
    expected = numbers()
    shutil.copytree("results/smoke", "fresh/results/smoke")
    shutil.copytree("config", "fresh/config")
    monkeypatch.chdir("fresh")
    Path("results/smoke/tracking.json").unlink()
    written = store_module.Store.log_points
    left = calls

    def dies(store, run_id, start, points, params=None):
        nonlocal left
        if left == 0:  # in the middle of the run: half its numbers, no mark
            written(store, run_id, start, points[: len(points) // 2], params)
            raise KeyboardInterrupt
        left -= 1
        written(store, run_id, start, points, params)

    with monkeypatch.context() as patch:
        patch.setattr(store_module.Store, "log_points", dies)
        with pytest.raises(KeyboardInterrupt):
            sync(Results.read(synced))
    assert not Path("results/smoke/tracking.json").exists()
    sync(Results.read(synced))
    assert numbers() == expected
    assert {status for (status,) in query("select status from runs where lifecycle_stage = 'active'")} == {"FINISHED"}
    assert len(query("select * from runs where lifecycle_stage = 'deleted'")) == 0  # it was completed, not written anew


def test_a_run_whose_files_changed_is_replayed(synced):
    run = first(synced, "train_student")
    publish(synced, run, 0.11)
    compile_tables(Results.read(synced))
    sync(Results.read(synced))
    wanted = ("run", run.key, "final/val_top1")
    assert [number[-1] for number in numbers() if number[:3] == wanted] == [0.11]


def test_rows_have_figures(synced):
    row = next(row for row in synced.rows if (row.experiment, row.variant) == ("vmoe_base", "m2mkd"))
    layer = {"name": "stages.0.blocks.0.mlp", "tokens": [0.75, 0.25], "router_entropy": 0.5, "dropped": 0.0}
    for run in (synced.runs[run_id] for run_id in row.measured):
        path = Path(synced.folder(run.id)) / "metrics.json"
        metrics = json.loads(path.read_text())
        right = round(metrics["top1"] * metrics["count"])
        wrong = metrics["count"] - right
        confused = {"confusion": {"classes": ["a", "b"], "images": [[0, 0, right], [1, 0, wrong]]}, "per_class": {"a": 1.0, "b": 0.0}}
        path.write_text(json.dumps(metrics | {"diagnostics": {"images": 32, "layers": [layer]}} | confused))
        edit_record(synced, run, lambda content, path=path: content["outputs"].update({path.name: sha256(path)}))
    for run in (synced.runs[run_id] for run_id in row.trained):
        path = Path(synced.folder(run.id)) / "metrics.jsonl"
        lines = [json.loads(line) | {"stages.0.blocks.0.mlp/router_entropy": 0.5} for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        edit_record(synced, run, lambda content, path=path: content["outputs"].update({path.name: sha256(path)}))
    compile_tables(Results.read(synced))
    sync(Results.read(synced))
    (parent,) = [entry["id"] for entry in tags("row") if entry["row"] == "vmoe_base/m2mkd (corrected)"]
    figures = Path("results/mlruns/m2mkd-smoke", parent, "artifacts")
    assert sorted(file.name for file in figures.iterdir()) == ["confusion.png", "parts-by-epoch.png", "parts.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in figures.iterdir())
    assert not [number for number in numbers() if "diagnostics" in number[2] or "confusion" in number[2]]
    mirrored = [number for number in numbers() if number[2] == "stages.0.blocks.0.mlp/router_entropy"]
    keys = [synced.runs[run_id].key for run_id in row.trained]
    assert sorted(number[1:] for number in mirrored if number[0] == "run") == sorted(
        (key, number, step, 0.5) for key in keys for number in ["stages.0.blocks.0.mlp/router_entropy"] for step in (1, 2, 3)
    )


def test_a_confusion_matrix_is_of_all_seeds():
    assert confusion_matrix([[[0, 0, 3], [0, 1, 1]], [[0, 0, 4]]], 3).tolist() == [[0.875, 0.125, 0], [0, 0, 0], [0, 0, 0]]


def test_a_part_of_a_study_is_taken_where_it_is_asked_for(synced):
    whole = numbers()
    shutil.rmtree(synced.folder(first(synced, "evaluate").id))
    Path("results/mlflow.db").unlink()
    Path("results/smoke/tracking.json").unlink()
    with pytest.raises(InputError, match="absent, so the run is not finished"):
        sync(Results.read(synced))
    sync(Results.read(synced, partial=True))
    assert not Path("results/smoke/tracking.json").exists()
    there = [number for number in numbers() if number[0] == "run"]
    assert there == [number for number in whole if number[0] == "run" and number[1] != first(synced, "evaluate").key]


def test_the_image_that_a_run_was_computed_in_is_a_tag_of_it_and_of_its_row(synced):
    assert not any("image" in run for run in tags("run"))
    run = first(synced, "train_student")
    image = {"image": "containers/a.sif", "digest": "sha256:12", "revision": "abc", "lock": "34", "sbom": "56"}
    edit_record(synced, run, lambda content: content["provenance"].update(container=image))
    compile_tables(Results.read(synced))
    sync(Results.read(synced))
    tagged = [found for found in tags("run") + tags("row") if "image" in found]
    assert [(found["level"], found["image"], found["image_digest"], found["image_sbom"]) for found in tagged] == [
        (level, "containers/a.sif", "sha256:12", "56") for level in ("run", "row")
    ]
    assert tagged[0]["key"] == run.key


def test_tables_are_artifacts_wherever_the_project_moved(synced, template):
    (study,) = tags("study")
    folder = Path("results/mlruns/m2mkd-smoke", study["id"], "artifacts")
    assert (folder / "results.csv").read_bytes() == Path("results/smoke/tables/results.csv").read_bytes()
    # This is a copy of the project: nothing in the store may point to where it was made.
    elsewhere = str(template[1])
    addresses = [address for (address,) in query("select artifact_uri from runs")]
    assert not any(elsewhere in address for address in addresses)
    assert not query(f"select * from tags where value like '%{elsewhere}%'")


def test_tables_of_another_study_are_refused(synced, tmp_path):
    study = plan(Path.cwd(), "smoke", ["vmoe_base/m2mkd"], seeds=2)
    with pytest.raises(InputError, match=r"tables: not the tables of study .*; run 'm2mkd compile'"):
        sync(Results.read(study))


def test_nested_configuration_becomes_dotted_names():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": "text", "e": None}) == {"a.b": "1", "a.c": "[1, 2]", "d": "text", "e": "null"}
