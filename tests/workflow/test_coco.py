"""The pack of COCO on its whole way: fetched over a connection that drops, checked, packed, trained on, measured on; and in the image."""

import json
import shutil

import pytest
import yaml

from m2mkd.config import load
from m2mkd.data.detection_pack import detection_split
from m2mkd.data.pack import open_pack
from m2mkd.study.measurements import PRECISIONS
from tests.loopback import serving
from tests.workflow.conftest import Project, copy_project
from tests.workflow.images import on_the_host

ARCHIVE = "coco-mini.zip"
UPDATES = 20
SCALE = {
    "title": "Twenty updates on the pack of COCO",
    "extends": "small",
    "experiments": ["coco_vmoe_base/random"],
    "seeds": 1,
    "seeds_per_job": 1,
    "data": {"coco-2017@1024": "coco-mini@320"},
    "detectors": {"vmoe_base_1024": {"image_size": 128}},
    "detection_recipes": {
        "detection": {
            "updates": UPDATES,
            "batch_size": 4,
            "warmup_updates": 5,
            "milestones": [14, 18],
            "input": {"augmentation": {"target": 128, "flip": 0.5}, "test_size": 128, "test_longest": 128},
        }
    },
}


def configured(root) -> Project:
    """A copy of the project with a scale of its own."""
    copy_project(root)
    (root / "config/scales/coco.yaml").write_text(yaml.safe_dump(SCALE))
    return Project(root, "coco")


@pytest.fixture(scope="module")
def done(tmp_path_factory, packs_dir):
    """A copy in which the whole workflow has run on the pack, and the server that it fetched from."""
    project = configured(tmp_path_factory.mktemp("coco"))
    with serving({ARCHIVE: packs_dir / ARCHIVE}) as server, pytest.MonkeyPatch.context() as patch:
        server.drops = {ARCHIVE: (packs_dir / ARCHIVE).stat().st_size // 2}
        patch.setenv("M2MKD_DATA_SOURCE", server.url)
        project.snakemake()
    return project, server


def results(project: Project) -> dict[str, bytes]:
    """Weights, curves and numbers of the detector, and the tables, by name."""
    root = project.root / "results/coco"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for pattern in ("runs/*_detector/*/m*", "tables/detection*", "metrics.json")
        for path in root.glob(pattern)
    }


def test_the_archive_was_taken_up_where_its_connection_dropped(done, packs_dir):
    _, server = done
    first, second = [start for name, start in server.asked if name == ARCHIVE]
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= (packs_dir / ARCHIVE).stat().st_size // 2


def test_the_archive_and_the_prepared_set_are_whole(done, packs_dir):
    project, _ = done
    printed = project.run("m2mkd", "data", "verify").stdout
    (file,) = load.datasets()["coco-mini"].files
    assert f"data/raw/{ARCHIVE}: sha256 {file.sha256}, as expected" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("data/packed/coco-mini@320")]
    assert ": 189 train, 60 val images, complete" in line
    (folder,) = (project.root / "data/packed").glob("coco-mini@320/*/")
    pack, manifest = open_pack(folder), json.loads((packs_dir / "coco-mini.manifest.json").read_text())
    assert len(pack.classes) == 80 and manifest["images"] == 249
    assert len(detection_split(pack, "train").trainable) > 150


def test_a_detector_was_trained_for_twenty_updates(done):
    project, _ = done
    lines = [json.loads(line) for line in project.folder("runs/train_detector/*/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == UPDATES and lines[-1]["loss"] > 0
    assert json.loads(project.folder("runs/train_detector/*/run.json").read_text())["config"]["data"]["name"] == "coco-mini"


def test_every_image_was_measured(done):
    project, _ = done
    metrics = json.loads(project.folder("runs/evaluate_detector/*/metrics.json").read_text())
    assert metrics["count"] == 60 and len(metrics["per_class"]["boxes"]) == 80
    for kind in ("boxes", "masks"):
        assert list(metrics[kind]) == list(PRECISIONS)
        assert all(0 <= value <= 1 for value in metrics[kind].values() if value is not None)


def test_tables_and_report_show_the_detector(done):
    project, _ = done
    assert {"tables/detection.csv", "tables/detection_sizes.md", "tables/detection_classes.tex", "metrics.json"} <= results(project).keys()
    report = (project.root / "results/coco/report.html").read_text()
    assert 'id="detections-coco_vmoe_base-random-corrected"' in report and 'id="figure-precision-coco-vmoe-base"' in report
    assert (
        json.loads((project.root / "results/coco/metrics.json").read_text())["coco_vmoe_base"]["random"]["corrected"]["detection_boxes_AP"]
        >= 0
    )


def test_nothing_is_done_twice(done):
    project, _ = done
    assert project.jobs() == []


@pytest.mark.container
def test_inside_the_image_it_comes_to_the_same_bits(done, tmp_path, packs_dir, sif, monkeypatch):
    host, _ = done
    project = configured(tmp_path)
    project.set_config(scale="coco", container=str(sif))
    with serving({ARCHIVE: packs_dir / ARCHIVE}) as server:
        monkeypatch.setenv("M2MKD_DATA_SOURCE", server.url)
        project.snakemake("--use-singularity")
    assert [name for name, _ in server.asked] == [ARCHIVE]
    assert on_the_host(project, sif) == []
    assert results(project) == results(host)
    shutil.rmtree(project.root / "data")
