"""Nothing else stands in the place of a prepared set, or of a source file, under the same name."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config import load
from m2mkd.data.manifest import manifest_digest
from m2mkd.data.prepare import prepare
from m2mkd.errors import InputError
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.data import resolve_data
from tests.fabricated import edit_record, finish, first, plan
from tests.unit.data.grey import archive


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A finished study whose sets are really there, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    load.forget_files()
    study = plan(tmp_path, "smoke", ["vmoe_base/end_to_end"])
    for data in {data for run in study.runs.values() for data in run.config.data_sets}:
        prepare(data.name, load.datasets()[data.name], data.image_size, Path(data.folder))
    finish(study)
    return study


def said(*command: str) -> str:
    done = CliRunner().invoke(app, [*command])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*command: str) -> str:
    done = CliRunner().invoke(app, [*command])
    assert isinstance(done.exception, InputError), done.output
    return str(done.exception)


def resign(folder: Path) -> None:
    """Make the manifest of a set whose files were changed right again, as a forger would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    for name, facts in manifest["files"].items():
        content = (folder / name).read_bytes()
        facts.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    path.write_text(json.dumps(manifest | {"digest": manifest_digest(manifest)}))


def shuffle_labels(folder: Path) -> None:
    path = folder / "train.labels.npy"
    np.save(path, np.random.default_rng(0).permutation(np.load(path)))
    resign(folder)


def test_sets_as_they_were_are_verified_with_the_runs_that_saw_them(study):
    compile_tables(Results.read(study))
    assert "1438 train, 359 val images, complete, as used by 2 finished runs" in said("data", "verify", "digits")
    assert said("runs", "verify", "--scale", "smoke", "vmoe_base/end_to_end").endswith(
        "results/smoke: 2 of 2 runs are finished and complete\n"
    )


def test_labels_that_were_shuffled_under_the_same_key_are_refused(study):
    data = first(study, "evaluate").config.data
    shuffle_labels(Path(data.folder))
    with pytest.raises(InputError, match=r"run\.json: the run used digits@32 with digest \w+\.\.\., but data/packed/digits@32/\w+ is \w+"):
        compile_tables(Results.read(study))
    assert f"{data.folder}: its digest is" in refused("data", "verify", "digits")
    assert "the run used digits@32" in refused("runs", "verify", "--scale", "smoke", "vmoe_base/end_to_end")
    shutil.rmtree(data.folder)  # without the set nothing can be compared, and its runs remain what they are
    compile_tables(Results.read(study))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.clear(), "does not say which data the run used"),
        (lambda data: data.update({"digits@16": data.pop("digits@32")}), "does not say which data the run used"),
        (lambda data: data.update({"digits@32": "0" * 64}), r"the run used digits@32 with digest 0{12}"),
    ],
)
def test_a_record_of_other_data_is_refused(study, change, message):
    edit_record(study, first(study, "train_student"), lambda record: change(record["data"]))
    with pytest.raises(InputError, match=message):
        Results.read(study)


def test_more_images_than_the_set_has_were_not_measured(study):
    manifest = json.loads(Path(first(study, "evaluate").config.data.manifest).read_text())
    assert manifest["splits"]["val"]["images"] == 359
    run = first(study, "evaluate")
    path = Path(study.folder(run.id), "metrics.json")
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {"count": 718}))
    edit_record(study, run, lambda record: record["outputs"].update({"metrics.json": hashlib.sha256(path.read_bytes()).hexdigest()}))
    with pytest.raises(InputError, match=r"metrics\.json: 718 images of digits@32 were measured, but it has 359"):
        Results.read(study)


@pytest.fixture
def unregistered(tmp_path, monkeypatch):
    """A data set of whose source file the registry has no digest, prepared."""
    monkeypatch.chdir(tmp_path)
    registry = Path("config/datasets.yaml")
    registry.parent.mkdir()
    facts = "  title: Grey\n  layout: image_folder\n  classes: 2\n  licence: none\n  files: [{name: grey.zip}]\n  obtain: by hand\n"
    registry.write_text(f"grey:\n{facts}")
    load.forget_files()
    archive(Path("data/raw/grey.zip"), 10)
    said("data", "prepare", "grey@32")
    yield Path(resolve_data("grey@32", "test")[0].folder)
    load.forget_files()


def test_a_source_that_was_exchanged_under_its_set_is_refused(unregistered):
    assert "the registry has no digest" in said("data", "verify", "grey")
    archive(Path("data/raw/grey.zip"), 20)
    message = rf"data/raw/grey.zip: sha256 is \w+\.\.\., but {unregistered} was made from \w+"
    for command in (("data", "verify", "grey"), ("data", "fetch", "grey"), ("data", "prepare", "grey@16")):
        with pytest.raises(InputError, match=message):
            raise InputError(refused(*command))
    assert not list(Path("data/packed").glob("grey@16/*"))
    shutil.rmtree(unregistered.parent)
    said("data", "prepare", "grey@16")
    said("data", "verify", "grey")


def test_a_source_that_was_registered_anew_is_another_set(unregistered):
    archive(Path("data/raw/grey.zip"), 20)
    registry = Path("config/datasets.yaml")
    digest = hashlib.sha256(Path("data/raw/grey.zip").read_bytes()).hexdigest()
    registry.write_text(registry.read_text().replace("name: grey.zip", f"name: grey.zip, sha256: '{digest}'"))
    load.forget_files()
    said("data", "prepare", "grey@32")
    said("data", "verify", "grey")
