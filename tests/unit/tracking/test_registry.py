"""Students in the model registry."""

from pathlib import Path

from m2mkd.families.build import build_student
from m2mkd.files import sha256
from m2mkd.models.weights import save_weights
from m2mkd.results.judge.results import Results
from m2mkd.tracking.mlflow_export import sync
from tests.fabricated import edit_record, first
from tests.unit.tracking.stored import query, tags


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
