import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.tables import compile_tables
from m2mkd.tracking import store as store_module
from m2mkd.tracking.mlflow_sink import flat, sync
from m2mkd.tracking.store import without_credentials
from tests.fabricated import edit_record, finish, first, plan, publish

EXPERIMENTS = ["teacher_deit_large", "vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free", "nac_tiny_imagenet_ring_of_cliques"]


def make(root: Path):
    study = plan(root, "smoke", EXPERIMENTS, replicates=2)
    finish(study)
    compile_tables(study)
    return study


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A synchronised study, made once."""
    root = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        study = make(root)
        sync(study)
    return study, root


@pytest.fixture
def synced(template, tmp_path, monkeypatch):
    """A copy of it, elsewhere, in the working directory."""
    study, root = template
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return study


def query(text: str) -> list[tuple]:
    connection = sqlite3.connect("results/mlflow.db")
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def numbers() -> list[tuple]:
    """Every number of every run that is not deleted, with the run's identity but not its id in the store."""
    return query(
        """select l.value, k.value, s.value, m.key, m.step, m.value from metrics m join runs r using (run_uuid)
        join tags l on l.run_uuid = r.run_uuid and l.key = 'level' join tags k on k.run_uuid = r.run_uuid and k.key = 'key'
        left join tags s on s.run_uuid = r.run_uuid and s.key = 'slot'
        where r.lifecycle_stage = 'active' order by 1, 2, 3, 4, 5, 6"""
    )


def counts() -> list[int]:
    return [query(f"select count(*) from {table}")[0][0] for table in ("runs", "metrics", "params", "tags", "latest_metrics")]


def tags(level: str) -> list[dict[str, str]]:
    runs: dict[str, dict[str, str]] = {}
    for run, name, value in query("select run_uuid, key, value from tags join runs using (run_uuid) where lifecycle_stage = 'active'"):
        runs.setdefault(run, {"id": run})[name] = value
    return [found for found in runs.values() if found["level"] == level]


def test_every_run_is_there_once(synced):
    replicates = [(run.key, str(slot)) for run in synced.runs.values() for slot in range(len(run.config.replicates))]
    found = tags("run")
    assert sorted((run["key"], run["slot"]) for run in found) == sorted(replicates)
    assert json.loads(Path("results/smoke/tracking.json").read_text()) == {
        "study": synced.key,
        "store": "sqlite:///results/mlflow.db",
        "runs": len(replicates),
    }
    assert {status for (status,) in query("select status from runs")} == {"FINISHED"}
    assert all({"scale", "experiment", "variant", "profile", "seed", "phase", "used_by", "record"} <= set(run) for run in found)


def test_runs_stand_below_their_row(synced):
    rows = {row["id"]: row["row"] for row in tags("row")}
    parents = {(run["key"], run["slot"]): rows[run["mlflow.parentRunId"]] for run in tags("run")}
    assert parents[first(synced, "pretrain_meta").key, "0"] == "teacher_deit_large/teacher (corrected)"
    nac = [run for run in tags("run") if run["phase"] == "distill_module" and "ring_of_cliques" in run["used_by"]]
    # Modules that two priors share are logged once, below the first of them.
    assert {rows[run["mlflow.parentRunId"]] for run in nac} == {"nac_tiny_imagenet_scale_free/m2mkd (corrected)"}
    assert all("nac_tiny_imagenet_scale_free/m2mkd (corrected)" in run["used_by"] for run in nac)


def test_numbers_of_rows_and_runs(synced):
    found = {(run["level"], run.get("row") or run["phase"]): run["id"] for run in [*tags("row"), *tags("run")]}
    row = dict(query(f"select key, value from metrics where run_uuid = '{found['row', 'vmoe_base/m2mkd (corrected)']}'"))
    assert row["final/iid_top1"] == pytest.approx(0.91) and row["final/iid_top1_std"] == pytest.approx(0.02 / 2**0.5)
    meta = query(f"select key, step, value from metrics where run_uuid = '{found['run', 'pretrain_meta']}' order by key, step")
    assert [(step, value) for key, step, value in meta if key == "loss"] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert ("final/val_top1", 3, 0.9) in meta and ("best/val_top1", 2, 0.91) in meta
    params = dict(query(f"select key, value from params where run_uuid = '{found['run', 'pretrain_meta']}'"))
    assert params["recipe.epochs"] == str(first(synced, "pretrain_meta").config.recipe.epochs)


def test_a_second_time_adds_nothing(synced):
    before = counts()
    sync(synced)
    assert counts() == before


@pytest.mark.parametrize("calls", [0, 40])
def test_a_killed_synchronisation_is_made_good(synced, monkeypatch, calls):
    expected = numbers()
    shutil.copytree("results/smoke", "fresh/results/smoke")
    shutil.copytree("config", "fresh/config")
    monkeypatch.chdir("fresh")
    Path("results/smoke/tracking.json").unlink()
    written = store_module.Store._write
    left = calls

    def dies(store, run_id, entry):
        nonlocal left
        if left == 0:  # in the middle of the run: half its numbers, no mark
            entry.metrics = entry.metrics[: len(entry.metrics) // 2]
            written(store, run_id, entry)
            raise KeyboardInterrupt
        left -= 1
        written(store, run_id, entry)

    with monkeypatch.context() as patch:
        patch.setattr(store_module.Store, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            sync(synced)
    assert not Path("results/smoke/tracking.json").exists()
    sync(synced)
    assert numbers() == expected
    assert {status for (status,) in query("select status from runs where lifecycle_stage = 'active'")} == {"FINISHED"}


def test_a_run_whose_files_changed_is_replayed(synced):
    run = first(synced, "train_student")
    publish(synced, run, 0, 0.11)
    compile_tables(synced)
    sync(synced)
    wanted = ("run", run.key, "0", "final/val_top1")
    assert [number[-1] for number in numbers() if number[:4] == wanted] == [0.11]


def test_the_use_of_parts_is_drawn(synced):
    run = first(synced, "evaluate")
    path = Path(synced.folder(run.id)) / "0" / "metrics.json"
    layer = {"name": "stages.0.blocks.0.mlp", "tokens": [0.75, 0.25], "router_entropy": 0.5, "dropped": 0.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"diagnostics": {"images": 32, "layers": [layer]}}))
    edit_record(synced, run, lambda content: content["outputs"].update({"metrics.json": sha256(path)}))
    trained = first(synced, "train_student")
    path = Path(synced.folder(trained.id)) / "0" / "metrics.jsonl"
    lines = [json.loads(line) | {"stages.0.blocks.0.mlp/router_entropy": 0.5} for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    edit_record(synced, trained, lambda content: content["outputs"].update({"metrics.jsonl": sha256(path)}))
    compile_tables(synced)
    sync(synced)
    found = {(entry["key"], entry["slot"]): entry["id"] for entry in tags("run")}
    folder = Path("results/mlruns/m2mkd-smoke")
    for key, name in ((run.key, "diagnostics"), (trained.key, "diagnostics-by-epoch")):
        artifacts = folder / found[key, "0"] / "artifacts"
        assert [file.name for file in artifacts.iterdir()] == [f"{name}.png"]
        assert (artifacts / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not [number for number in numbers() if "diagnostics" in number[3]]
    followed = [number for number in numbers() if number[3] == "stages.0.blocks.0.mlp/router_entropy"]
    assert [(number[1], number[4], number[5]) for number in followed] == [(trained.key, step, 0.5) for step in (1, 2, 3)]


def test_the_image_that_a_run_was_computed_in_is_a_tag_of_it_and_of_its_row(synced):
    assert not any("image" in run for run in tags("run"))
    run = first(synced, "train_student")
    image = {"image": "containers/a.sif", "digest": "sha256:12", "revision": "abc", "lock": "34", "sbom": "56"}
    edit_record(synced, run, lambda content: content["provenance"].update(container=image))
    compile_tables(synced)
    sync(synced)
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
    study = plan(Path.cwd(), "smoke", ["vmoe_base/m2mkd"], replicates=2)
    with pytest.raises(InputError, match=r"tables: not the tables of study .*; run 'm2mkd compile'"):
        sync(study)


def test_a_store_that_cannot_be_used_is_an_input_error(synced):
    Path("results/mlflow.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(InputError, match=r"MLflow store sqlite:///results/mlflow\.db: .*; if it is damaged, remove results/mlflow\.db"):
        sync(synced)


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
