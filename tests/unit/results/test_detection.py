"""Tables, figures and pictures of detectors, and what MLflow gets of them."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2mkd.data.detection_pack import detection_split
from m2mkd.data.pack import open_pack
from m2mkd.data.segmentation import run_lengths
from m2mkd.results.judge.results import Results
from m2mkd.results.report.detection_figures import detection_illustrations, size_estimates
from m2mkd.results.report.detection_pictures import SIDE, detections_sheet
from m2mkd.results.report.result_tables import detail_tables, result_tables
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.results.tables.detection import detection_classes_table, detection_sizes_table, detection_table
from m2mkd.results.tables.metrics import means_and_gains
from m2mkd.study.files import planned_runs
from m2mkd.study.study import Study
from m2mkd.tracking.figures import row_figures
from m2mkd.tracking.finished import record_entry
from tests.fabricated import finish, first, measured, plan
from tests.scenes import write_scenes

VARIANTS = ["random", "end_to_end", "m2mkd"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("detection")


@pytest.fixture(autouse=True)
def _there(root, _in_the_root, monkeypatch):
    """Where the study lies, which names its files from there."""
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def study(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "smoke", ["coco_vmoe_base"], seeds=3)
        finish(study)
        yield study


@pytest.fixture(scope="module")
def results(study) -> Results:
    return Results.read(study)


def read(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Path("results/smoke/tables", name).read_text())))


def test_every_number_of_coco_is_in_the_table(results):
    table = detection_table(results)
    assert [row[1] for row in table.rows] == VARIANTS
    shown = dict(zip(table.header, table.rows[0], strict=True))
    assert (shown["images"], shown["seeds"]) == ("1000", "3")
    assert shown["boxes AP50 %"].startswith("93.00 ± ") and shown["masks AP50 %"].startswith("83.70 ± ")
    assert shown["boxes AP %"].target == "runs-coco_vmoe_base-random-corrected"
    exact = table.exact.iloc[0]
    assert exact["boxes_AP50_mean"] == pytest.approx(0.93) and exact["boxes_AP50_std"] == pytest.approx(0.0013**0.5)
    assert np.isnan(exact["boxes_APl_mean"]), "there is no large instance"


def test_sizes_and_classes_that_the_set_has_none_of_are_left_out(results):
    sizes = detection_sizes_table(results)
    assert [row[4:6] for row in sizes.rows[:4]] == [("boxes", "small"), ("boxes", "medium"), ("masks", "small"), ("masks", "medium")]
    classes = detection_classes_table(results)
    assert len(classes.rows) == 9 and classes.header[2:] == tuple(
        f"{v} (corrected), {kind}" for v in VARIANTS for kind in ("boxes", "masks")
    )
    assert len(classes.exact) == 9 * 2 * 3 and classes.exact["AP_mean"][0] == pytest.approx(0.465)


def test_tables_and_final_metrics_are_written(study, results):
    compile_tables(results)
    assert len(read("detection.csv")) == 3 and len(read("detection_sizes.csv")) == 12 and len(read("detection_classes.csv")) == 54
    found = json.loads(Path("results/smoke/metrics.json").read_text())["coco_vmoe_base"]["m2mkd"]["corrected"]
    assert found["detection_boxes_AP50"] == pytest.approx(0.93)
    assert "detection_boxes_APl" not in found and found == means_and_gains(results)["coco_vmoe_base"]["m2mkd"]["corrected"]


def test_figures_show_each_variant_and_say_what_they_show(results):
    figures = {one.name: one for one in detection_illustrations(results)}
    assert figures.keys() == {"precision-coco-vmoe-base", "sizes-coco-vmoe-base", "curves-coco-vmoe-base"}
    assert "random 93.0; end to end 93.0; m2mKD 93.0" in figures["precision-coco-vmoe-base"].description
    marks = [mark.text for mark in figures["precision-coco-vmoe-base"].figure.marks]
    assert "boxes, m2mKD, IoU 0.5, recall 0 %: precision 100.0 %" in marks
    records = {"random": [record for record in results.records if record.run.phase == "evaluate_detector"][:3]}
    assert [(one.label, round(one.centre, 1)) for one in size_estimates(records)["masks"]] == [
        ("all", 41.9),
        ("small", 41.9),
        ("medium", 41.9),
    ]


def test_a_missing_number_is_refused(study):
    run = first(study, "evaluate_detector")
    path = Path(study.folder(run.id), "metrics.json")
    whole = json.loads(path.read_text())
    for change, message in (({"AP75": 1.2}, "boxes_AP75 is 1.2"), ({"AP75": "x"}, "boxes_AP75 is x")):
        with pytest.raises(ValueError, match=message):
            list(run.config.measurements(whole | {"boxes": whole["boxes"] | change}))
    with pytest.raises(KeyError, match="AP75"):
        list(run.config.measurements(whole | {"boxes": {name: 0.5 for name in whole["boxes"] if name != "AP75"}}))


def with_pictures(study: Study) -> Results:
    """The same with a real set, and what was found in its first image: a box over all of it."""
    run = first(study, "evaluate_detector")
    write_scenes(Path(run.config.data.folder))
    (mask,) = run_lengths(np.ones((1, 64, 64), bool))
    example = {"image": 0, "size": [64, 64], "boxes": [[0.0, 0.0, 64.0, 64.0]], "scores": [0.9], "classes": [3], "masks": [mask["counts"]]}
    finish(study, metrics=lambda config, top1: measured(config, top1) | {"examples": [example]})
    return Results.read(study)


def test_detections_are_drawn_beside_the_truth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", ["coco_vmoe_base/random"], seeds=1)
    results = with_pictures(study)
    (record,) = [record for record in results.records if record.run.phase == "evaluate_detector"]
    sheet = detections_sheet(record)
    pixels = np.asarray(sheet).astype(int)
    truth, found = pixels[16 : 16 + SIDE, :SIDE], pixels[16 : 16 + SIDE, -SIDE:]
    split = detection_split(open_pack(Path(record.run.config.data.folder), verify="never"), "val")
    image = np.asarray(Image.fromarray(split.image(0)).resize((SIDE, SIDE), Image.Resampling.NEAREST)).astype(int)
    covered = np.abs(found - image).max(axis=2) > 5
    assert covered.mean() > 0.99, "the mask lies over all of the image"
    assert 0.02 < (np.abs(truth - image).max(axis=2) > 5).mean() < 0.6, "those of the truth over the digits alone"

    write_report(results)
    text = Path("results/smoke/report.html").read_text()
    start = text.index('id="detections-coco_vmoe_base-random-corrected"')
    address = text[text.index("data:image/webp;base64,", start) :].partition('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).size == sheet.size
    headings = [title for title, _ in [*result_tables(results), *detail_tables(results)]]
    assert headings == ["Detection and instance segmentation", "Detection by size of the instances", "Detection by class"]

    figures = row_figures("random", {}, [record])
    assert figures.keys() == {"precision-recall.png", "precision-by-size.png", "detections.png"}
    for name, write in figures.items():
        buffer = io.BytesIO()
        write(buffer)
        assert Image.open(buffer).format == "PNG", name


def test_mlflow_gets_every_number_that_is_there(study, results):
    record = next(record for record in results.records if record.run.phase == "evaluate_detector")
    points = {point.name: point.value for point in record_entry(study, planned_runs(study)[record.run.id], record, "row").points}
    assert points["final/boxes/AP50"] == pytest.approx(0.9) and points["final/masks/AP"] == pytest.approx(0.405)
    assert "final/boxes/APl" not in points and not any(name.startswith("final/precision_recall") for name in points)
