"""Networks, modules and students of finished runs and of files, from Python alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import m2mkd
from m2mkd.data.stream import eval_batches
from m2mkd.distill.features import taps
from m2mkd.models.weights import load_weights
from m2mkd.study.phase import METRICS, WEIGHTS
from m2mkd.training.store import PUBLISHED_FILES
from m2mkd.upstream.imported import open_run, write_imported
from tests.tiny import of_phase

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def student_runs(study):
    """The V-MoE and the NAC, each with the run that evaluated it."""
    measured = {run.upstream["student"][0]: run for run in of_phase(study, "evaluate")}
    return {study.runs[run_id].config.student.family: (study.runs[run_id], run) for run_id, run in measured.items()}


@pytest.mark.parametrize("family", ["vmoe", "nac"])
def test_a_student_measures_what_its_evaluation_measured(project, family):
    run, evaluated = student_runs(project)[family]
    student = m2mkd.load_student(Path(project.folder(run.id)))
    assert (student.source, student.num_classes, student.network.training) == (run.id, 10, False)
    metrics = json.loads(Path(project.folder(evaluated.id), METRICS).read_text())
    measured = student.evaluate(str(run.config.data), device="cpu")
    assert measured == {name: metrics[name] for name in measured} and measured["count"] == 359


def test_batches_are_measured_like_the_prepared_set(project):
    run, _ = student_runs(project)["vmoe"]
    student, pack = m2mkd.load_student(run.id), PUBLISHED_FILES.pack(run.config.data)
    (whole,) = eval_batches(pack.split("val"), pack.image_size, 1000)
    loader = DataLoader(TensorDataset(whole.images, whole.labels), batch_size=64)
    measured, expected = student.evaluate(loader, device="cpu"), student.evaluate("digits@32", device="cpu")
    assert measured["top1"] == expected["top1"] and measured["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    with pytest.raises(m2mkd.InputError, match="need a prepared set"):
        student.evaluate(loader, classes=["a"])


def test_images_are_prepared_as_in_evaluation(project):
    student = m2mkd.load_student(student_runs(project)["vmoe"][0].id)
    images = [Image.fromarray(np.full((40, 50), 255, np.uint8)), Image.new("RGB", (64, 48), "white")]
    assert student.preprocess(images).shape == (2, 3, 32, 32)
    torch.testing.assert_close(student.preprocess(images)[0, 0], torch.full((32, 32), (1 - 0.485) / 0.229))


def test_features_are_the_tokens_that_objectives_see(project):
    student = m2mkd.load_student(student_runs(project)["vmoe"][0].id)
    seen = taps(student.network.stages, "student")
    with torch.no_grad():
        student(IMAGES)
        expected = [tap.take() for tap in seen]
        found = student.features(IMAGES)
    assert len(found) == 4 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with pytest.raises(m2mkd.InputError, match="a nac has no stages"):
        m2mkd.load_student(student_runs(project)["nac"][0].id).features(IMAGES)


@pytest.mark.parametrize(
    "phase", ["pretrain_meta", "incubate_module", "assemble_teacher", "split_teacher", "distill_module", "train_student"]
)
def test_every_run_with_weights_opens(project, phase):
    runs = of_phase(project, phase)
    assert runs
    for run in runs:
        network, state = m2mkd.load_network(run.id), load_weights(Path(project.folder(run.id)))
        assert not network.training
        found = network.state_dict()
        assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def test_stages_of_the_teacher_make_the_teacher(project):
    (teacher,) = of_phase(project, "assemble_teacher")
    split = sorted(of_phase(project, "split_teacher"), key=lambda run: run.config.index)
    with torch.no_grad():
        x = IMAGES
        for run in split:
            x = m2mkd.load_network(run.id)(x)
        assert torch.equal(x, m2mkd.load_network(teacher.id)(IMAGES))


def test_modules_of_a_student_fit_the_meta_model(project):
    modules = sorted((run for run in of_phase(project, "distill_module")), key=lambda run: run.config.index)
    width = modules[0].config.meta.width
    shapes = [m2mkd.load_network(run.id)(IMAGES if run.config.index == 0 else torch.zeros(3, 17, width)).shape for run in modules]
    assert shapes[0][2] == width and shapes[-1] == (3, 10)


def test_a_key_may_be_shortened(project):
    run, _ = student_runs(project)["vmoe"]
    for text in (run.id, run.key, run.id[:-4], Path(project.folder(run.id), WEIGHTS)):
        assert m2mkd.load_student(text).source == run.id


def test_an_imported_file_opens(project, tmp_path):
    (run,) = of_phase(project, "assemble_teacher")
    released = {"img_size": 32, "patch_size": 8, "num_classes": 10, "embed_dim": 64, "num_heads": 4, "divided_depths": [1, 1, 1, 1]}
    from m2mkd.upstream.configs import describe_checkpoint
    from m2mkd.upstream.imported import Imported

    opened = open_run(Path(project.folder(run.id), WEIGHTS))
    released |= {"divided_depths": list(run.config.model.depths), "patch_size": run.config.model.patch_size}
    released |= {"embed_dim": run.config.model.width, "num_heads": run.config.model.heads}
    write_imported(Imported(describe_checkpoint("vit", released, {}), "a.pth", "0" * 64, opened.state), tmp_path / "a.safetensors")
    student = m2mkd.load_student(tmp_path / "a.safetensors")
    assert student.source == "a.pth" and torch.equal(student(IMAGES), m2mkd.load_network(run.id)(IMAGES))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("no such", "neither a file, nor a folder, nor the key"),
        ("train_studnet/ab", "phase train_studnet is not one of"),
        ("train_student/0000000000000000", "fits no finished run"),
        ("config", "has neither run.json nor config.json"),
        ("CITATION.cff", "not a safetensors file"),
    ],
)
def test_what_cannot_be_found_is_one_line(project, named, message):
    with pytest.raises(m2mkd.InputError, match=message) as error:
        m2mkd.load_network(named)
    assert "\n" not in str(error.value)


def test_runs_that_do_not_fit_are_refused(project, tmp_path):
    module, evaluated = of_phase(project, "distill_module")[0], of_phase(project, "evaluate")[0]
    with pytest.raises(m2mkd.InputError, match=r"has one module, not a whole network; use m2mkd\.load_network"):
        m2mkd.load_student(module.id)
    with pytest.raises(m2mkd.InputError, match=r"a run of evaluate has no weights; give one of .*train_student"):
        m2mkd.load_network(evaluated.id)
    with pytest.raises(m2mkd.InputError, match=r"fits .* finished runs, such as .* give more of the key"):
        m2mkd.load_network(_shared_start(project))
    copy = Path(shutil.copytree(project.folder(module.id), tmp_path / module.id))
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-1] + b"x")
    with pytest.raises(m2mkd.InputError, match="but the run recorded"):
        m2mkd.load_network(copy)


def _shared_start(study):
    """First digit that the keys of two runs have in common."""
    firsts = [run.key[0] for run in study.runs.values()]
    return next(first for first in firsts if firsts.count(first) > 1)
