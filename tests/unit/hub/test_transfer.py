"""Students on their way to a hub and back: nothing is lost, timm reads them, and what goes wrong is one line."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import constants

import m2mkd
import m2mkd.models.registry
from m2mkd.files import sha256
from m2mkd.hub.layout import CARD, FOLDER_FILES, HUB_CONFIG, SECTION
from m2mkd.study.phase import METRICS, WEIGHTS
from tests.hub import TOKEN, serving_hub
from tests.tiny import of_phase

IMAGES = {size: torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)) for size in (16, 32)}


@pytest.fixture
def hub(monkeypatch):
    """A hub at the address that HF_ENDPOINT would name, and a token that may write there."""
    with serving_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def student(project, family):
    return next(run for run in of_phase(project, "train_student") if run.config.student.family == family)


@pytest.mark.parametrize("family", ["vmoe", "nac"])
def test_a_student_goes_to_the_hub_and_comes_back(project, hub, typed, tmp_path, family):
    run = student(project, family)
    code, out, err = typed("push", project.folder(run.id), "lab/student")
    assert code == 0, err
    assert out.startswith(f"{hub.url}/lab/student/commit/")
    assert set(hub.repositories["lab/student"]) == {*FOLDER_FILES} and len(hub.large) == 1
    code, out, err = typed("pull", "lab/student", "-o", tmp_path / "pulled")
    assert code == 0, err
    assert f"{family} of run {run.id}" in out
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == {*FOLDER_FILES}
    assert sha256(tmp_path / "pulled" / WEIGHTS) == sha256(Path(project.folder(run.id), WEIGHTS))

    images = IMAGES[run.config.data.image_size]
    expected = m2mkd.load_student(run.id)(images)
    pulled = m2mkd.load_student(tmp_path / "pulled")
    assert pulled.source == run.id and torch.equal(pulled(images), expected)
    model = timm.create_model(f"local-dir:{tmp_path / 'pulled'}", pretrained=True).eval()
    assert torch.equal(model(images), expected)
    assert model.num_classes == 10 and model.pretrained_cfg["input_size"][1] == run.config.data.image_size
    other = timm.create_model(f"local-dir:{tmp_path / 'pulled'}", pretrained=True, num_classes=3).eval()
    assert other(images).shape == (3, 3)


def test_card_and_configuration_have_what_was_measured(project, typed, tmp_path):
    run = student(project, "vmoe")
    assert typed("push", project.folder(run.id), "lab/student", "--output", tmp_path / "folder")[0] == 0
    evaluated = next(one for one in of_phase(project, "evaluate") if one.upstream["student"] == (run.id,))
    metrics = json.loads(Path(project.folder(evaluated.id), METRICS).read_text())
    section = json.loads((tmp_path / "folder" / HUB_CONFIG).read_text())[SECTION]
    assert section["metrics"] == {name: metrics[name] for name in ("top1", "top5", "loss", "count")}
    assert section["run"] == run.id and section["config"] == run.config.model_dump(mode="json")
    _, front, text = (tmp_path / "folder" / CARD).read_text().split("---\n", 2)
    (model,) = yaml.safe_load(front)["model-index"]
    measured = {(one["dataset"]["name"], one["metrics"][0]["name"]): one["metrics"][0]["value"] for one in model["results"]}
    assert measured["digits@32", "top-1, iid"] == round(metrics["top1"], 6)
    assert f"| digits@32 | iid | top1 | {metrics['top1']:.6g} | 359 |" in text and section["sha256"] in text


def test_pushing_again_replaces(project, hub, typed, tmp_path):
    for family in ("vmoe", "nac"):
        assert typed("push", project.folder(student(project, family).id), "lab/student")[0] == 0
    for _ in range(2):
        assert typed("pull", "lab/student", "-o", tmp_path / "pulled")[0] == 0
    assert m2mkd.load_student(tmp_path / "pulled").source == student(project, "nac").id


def refused(typed, *arguments):
    code, out, err = typed(*arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1
    return err


def test_refusals_of_the_hub_are_one_line(project, hub, typed, tmp_path, monkeypatch):
    folder = project.folder(student(project, "vmoe").id)
    assert "lab/none: no such repository, or a private one" in refused(typed, "pull", "lab/none", "-o", tmp_path / "a")
    assert "write owner/name" in refused(typed, "pull", "lab/a b", "-o", tmp_path / "a")
    hub.repositories["lab/other"] = {"README.md": b"# Other\n"}
    assert "lacks one of config.json" in refused(typed, "pull", "lab/other", "-o", tmp_path / "a")
    assert "has no revision v9" in refused(typed, "pull", "lab/other", "--revision", "v9", "-o", tmp_path / "a")
    hub.repositories["lab/other"] |= {HUB_CONFIG: b'{"architecture": "resnet50"}', WEIGHTS: b"weights"}
    assert "was not written by 'm2mkd push'" in refused(typed, "pull", "lab/other", "-o", tmp_path / "a")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "the hub answers 401" in refused(typed, "push", folder, "lab/student")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token for the hub; run 'hf auth login'" in refused(typed, "push", folder, "lab/student")
    assert not (tmp_path / "a").exists() and "lab/student" not in hub.repositories


def test_damaged_weights_are_refused(project, hub, typed, tmp_path):
    assert typed("push", project.folder(student(project, "vmoe").id), "lab/student")[0] == 0
    typed("pull", "lab/student", "-o", tmp_path / "pulled")
    whole = hub.repositories["lab/student"][WEIGHTS]
    hub.repositories["lab/student"][WEIGHTS] = whole[:-1] + bytes([whole[-1] ^ 1])
    message = refused(typed, "pull", "lab/student", "-o", tmp_path / "pulled")
    assert "sha256 is" in message and "config.json says" in message and ".partial" not in message
    assert m2mkd.load_student(tmp_path / "pulled").num_classes == 10  # the earlier one is still there
    (tmp_path / "pulled" / WEIGHTS).write_bytes(whole[:-1])
    with pytest.raises(m2mkd.InputError, match=r"config\.json says .*; pull it again"):
        m2mkd.load_student(tmp_path / "pulled")


def test_a_hub_that_is_not_there_and_folders_of_others(project, hub, typed, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refused(typed, "pull", "lab/student", "-o", tmp_path / "a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    assert "holds other files; give a new folder" in refused(typed, "pull", "lab/student", "-o", tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_only_finished_students_are_published(project, typed, tmp_path):
    module = of_phase(project, "distill_module")[0]
    output = ("lab/student", "-o", tmp_path / "a")
    assert "is a run of distill_module, not a student" in refused(typed, "push", project.folder(module.id), *output)
    assert "cannot be read with its record" in refused(typed, "push", tmp_path, *output)
    run = student(project, "vmoe")
    copy = shutil.copytree(project.folder(run.id), tmp_path / run.id)
    (copy / WEIGHTS).write_bytes(b"other")
    assert "but the run recorded" in refused(typed, "push", copy, *output)
