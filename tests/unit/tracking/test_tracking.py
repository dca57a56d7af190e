import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.models.build import build_student
from m2mkd.models.weights import save_weights
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.tracking import store as store_module
from m2mkd.tracking.address import set_default_tracking_uri, store_uri, without_credentials
from m2mkd.tracking.entry import Point, flat
from m2mkd.tracking.figures import confusion_matrix
from m2mkd.tracking.live import order_of
from m2mkd.tracking.mlflow_export import sync
from m2mkd.tracking.mlflow_mirror import MirroredRun, MlflowMirror, claim
from m2mkd.tracking.store import open_store
from tests.fabricated import edit_record, finish, first, plan, publish
from tests.wiring import plan_of

EXPERIMENTS = ["teacher_deit_large", "vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free", "nac_tiny_imagenet_ring_of_cliques"]


def make(root: Path):
    study = plan(root, "smoke", EXPERIMENTS, seeds=2)
    finish(study)
    compile_tables(Results.read(study))
    return study


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A synchronised study, made once."""
    root = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        study = make(root)
        sync(Results.read(study))
    return study, root


@pytest.fixture
def synced(template, tmp_path, monkeypatch):
    """A copy of it, elsewhere, in the working directory."""
    study, root = template
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return study


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "databricks", "ftp://user:secret@example.org/x"])
def test_a_store_that_holds_points_twice_is_refused(synced, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI .*: is neither a database nor a server; give one like") as refused:
        sync(Results.read(synced))
    assert "secret" not in str(refused.value)
    assert not Path("mlruns").exists()


def query(text: str) -> list[tuple]:
    connection = sqlite3.connect("results/mlflow.db")
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def numbers() -> list[tuple]:
    """Every number of every run that is not deleted, with the run's identity but not its id in the store."""
    return query(
        """select l.value, k.value, m.key, m.step, m.value from metrics m join runs r using (run_uuid)
        join tags l on l.run_uuid = r.run_uuid and l.key = 'level' join tags k on k.run_uuid = r.run_uuid and k.key = 'key'
        where r.lifecycle_stage = 'active' order by 1, 2, 3, 4, 5"""
    )


def counts() -> list[int]:
    return [query(f"select count(*) from {table}")[0][0] for table in ("runs", "metrics", "params", "tags", "latest_metrics")]


def tags(level: str) -> list[dict[str, str]]:
    runs: dict[str, dict[str, str]] = {}
    for run, name, value in query("select run_uuid, key, value from tags join runs using (run_uuid) where lifecycle_stage = 'active'"):
        runs.setdefault(run, {"id": run})[name] = value
    return [found for found in runs.values() if found["level"] == level]


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
    assert seen == [(str(data), "of the set", "training")]
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
    measured = {"diagnostics": {"images": 32, "layers": [layer]}, "confusion": {"classes": ["a", "b"], "images": [[0, 0, 3], [1, 0, 1]]}}
    for run in (synced.runs[run_id] for run_id in row.measured):
        path = Path(synced.folder(run.id)) / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | measured))
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


def mirror(study, run, lines, **changes):
    """A run as a training that goes on would have left it in the store, with so many lines of its curves."""
    curves = (Path(study.folder(run.id)) / "metrics.jsonl").read_text().splitlines()[:lines]
    with open_store("m2mkd/smoke") as store:
        entry = MirroredRun(order_of(*plan_of(study, run))).entry
        made = claim(store, entry)
        points = [Point(name, changes.get(name, value), line["epoch"]) for line in map(json.loads, curves) for name, value in line.items()]
        store.log_points(made.info.run_id, made.info.start_time, [point for point in points if point.name in ("lr", "loss")], entry.params)
    return made.info.run_id


def test_a_mirrored_run_is_completed(synced):
    expected = numbers()
    run = first(synced, "train_student")
    Path("results/mlflow.db").unlink()
    mirrored = mirror(synced, run, 2)
    assert mirrored == mirror(synced, run, 2)  # sent twice, as after an interruption
    sync(Results.read(synced))
    assert [entry["id"] for entry in tags("run") if entry["key"] == run.key] == [mirrored]
    assert numbers() == expected


def test_a_mirror_that_comes_late_adds_nothing(synced):
    """A process that follows a short job may look at the store for the first time when the run has been brought there."""
    before = counts()
    run = first(synced, "train_student")
    mirror = MlflowMirror({"experiment": "m2mkd/smoke", "seconds": 0, "runs": [order_of(*plan_of(synced, run))]}, os.getppid())
    assert mirror.turn(last=True)
    assert counts() == before


def test_a_mirrored_run_with_other_numbers_is_replaced(synced):
    expected = numbers()
    run = first(synced, "train_student")
    Path("results/mlflow.db").unlink()
    mirrored = mirror(synced, run, 2, loss=9.0)
    sync(Results.read(synced))
    assert mirrored not in [entry["id"] for entry in tags("run")]
    assert numbers() == expected


def test_two_runs_of_the_same_become_one(synced):
    expected = numbers()
    run = first(synced, "train_student")
    with open_store("m2mkd/smoke") as store:
        store.look()
        (twin,) = [run for runs in store.listed.values() for run in runs if run.data.tags["key"] == first(synced, "train_student").key][:1]
        store.client.create_run(store.experiment_id, tags=twin.data.tags)
    assert len([entry for entry in tags("run") if entry["key"] == run.key]) == 2
    sync(Results.read(synced))
    assert numbers() == expected
    assert len({tuple(sorted(entry.items())) for entry in tags("run") if entry["key"] == run.key}) == 1


def versions() -> list[tuple]:
    return query(
        "select name, version, run_id, storage_location from model_versions where current_stage != 'Deleted_Internal' order by 1, 2"
    )


def test_students_are_registered_once_with_what_was_measured(synced):
    students = {entry["id"]: entry for entry in tags("run") if entry["phase"] == "train_student"}
    found = versions()
    assert sorted(version[2] for version in found) == sorted(students)
    assert ("smoke.vmoe_base.m2mkd.corrected", 1) in [version[:2] for version in found]
    assert all(location == f"runs:/{run}/model" for _, _, run, location in found)
    measured = dict(query("select key, value from model_version_tags where name = 'smoke.vmoe_base.m2mkd.corrected' and version = 2"))
    assert measured["final/top1"] == "0.92" and measured["seed"] == "1" and "final/ood/imagenet-r/top1" not in measured
    sync(Results.read(synced))
    assert versions() == found


def test_a_registered_student_loads_and_computes_what_it_did(synced):
    import mlflow
    import numpy as np
    import torch

    run = first(synced, "train_student")
    config, folder = run.config, Path(synced.folder(run.id))
    sizes = {"image_size": config.data.image_size, "num_classes": config.data.classes}
    network = build_student(config.student, **sizes, prior=config.prior, stitch_width=config.stitch_width, compat=config.compat).eval()
    save_weights(folder, network.state_dict(), run.id)
    edit_record(synced, run, lambda content: content["outputs"].update({"model.safetensors": sha256(folder / "model.safetensors")}))
    sync(Results.read(synced, partial=True))
    (found,) = [entry["id"] for entry in tags("run") if entry["key"] == run.key]
    model = mlflow.pyfunc.load_model(f"results/mlruns/m2mkd-smoke/{found}/artifacts/model")
    (wanted,) = model.metadata.signature.inputs.inputs
    assert wanted.shape == (-1, 3, config.data.image_size, config.data.image_size)
    images = np.random.default_rng(0).random((2, 3, config.data.image_size, config.data.image_size), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.array_equal(model.predict(images), expected)
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, config.data.classes)


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


def test_a_store_that_cannot_be_used_is_an_input_error(synced):
    Path("results/mlflow.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(InputError, match=r"sqlite:///results/mlflow\.db: results/mlflow\.db is not an SQLite database"):
        sync(Results.read(synced))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///results/mlflow.db", "sqlite:///results/mlflow.db"),
        ("https://user:secret@host.example:8080/path?token=secret", "https://host.example:8080/path"),
        ("postgresql://user:secret@host/db", "postgresql://host/db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_credentials_are_not_written(uri, shown):
    assert without_credentials(uri) == shown


def test_nested_configuration_becomes_dotted_names():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": "text", "e": None}) == {"a.b": "1", "a.c": "[1, 2]", "d": "text", "e": "null"}


def test_the_configured_store_holds_unless_a_variable_names_one(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert set_default_tracking_uri("") == {} and store_uri() == "sqlite:///results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://of.the.variable.example")
    assert set_default_tracking_uri("http://of.the.file.example") == {"MLFLOW_TRACKING_URI": "http://of.the.variable.example"}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert set_default_tracking_uri("http://of.the.file.example") == {"MLFLOW_TRACKING_URI": "http://of.the.file.example"}
    assert store_uri() == "http://of.the.file.example"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
