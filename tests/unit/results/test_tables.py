import csv
import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml

from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.results.judge.results import Results
from m2mkd.results.read.published import PublishedNumbers
from m2mkd.results.tables.compile import compile_tables
from m2mkd.results.tables.mean_curves import COLUMNS
from m2mkd.study.plan import build_study
from tests.conftest import ROOT
from tests.fabricated import by_seed, edit_record, finish, first, plan

EXPERIMENTS = [
    *("teacher_deit_large", "vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free/end_to_end"),
    *("nac_tiny_imagenet_scale_free/m2mkd", "fewshot_cifar100_vmoe"),
]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", EXPERIMENTS, seeds=3)
    finish(study)
    return study


def read(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Path("results/smoke/tables", name).read_text())))


def contents() -> dict[str, bytes]:
    folder = Path("results/smoke")
    return {path.name: path.read_bytes() for path in [*folder.glob("tables/*"), folder / "metrics.json"]}


def test_mean_and_deviation_over_seeds(study):
    compile_tables(Results.read(study))
    rows = {(row["experiment"], row["variant"]): row for row in read("results.csv")}
    row = rows["vmoe_base", "m2mkd"]
    assert row["n"] == "3"
    assert float(row["iid_top1_mean"]) == pytest.approx(0.93, abs=1e-15)
    assert float(row["iid_top1_std"]) == pytest.approx(math.sqrt(0.0013), abs=1e-15)
    assert float(row["ood_top1_mean"]) == pytest.approx(0.465, abs=1e-15)
    assert (row["iid_data"], row["ood_data"]) == ("digits@32", "digits-r@32")
    # t(0.975, 2) = 4.302653
    assert float(row["iid_top1_half_width"]) == pytest.approx(4.302653 * math.sqrt(0.0013 / 3), abs=1e-7)
    assert "93.00 ± 8.96" in Path("results/smoke/tables/results.md").read_text()
    latex = Path("results/smoke/tables/results.tex").read_text()
    assert r"\toprule" in latex and "93.00 ± 8.96" in latex and r"vmoe\_base" in latex
    page = Path("results/smoke/tables/results.html").read_text()
    assert '<a href="../report.html#runs-vmoe_base-m2mkd-corrected">93.00 ± 8.96</a>' in page


def test_one_seed_has_no_deviation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", ["vmoe_base/m2mkd"])
    finish(study)
    compile_tables(Results.read(study))
    (row,) = read("results.csv")
    assert (row["n"], row["iid_top1_std"]) == ("1", "")
    assert "±" not in Path("results/smoke/tables/results.md").read_text().split("\n\n")[1]


def test_other_tables(study):
    compile_tables(Results.read(study))
    (teacher,) = read("teacher.csv")
    assert teacher["top1"] == "0.9" and teacher["images"] == "1000" and "std" not in "".join(teacher)
    probe, probes = first(study, "train_probe").config, read("fewshot.csv")
    assert [(row["variant"], row["way"], row["shots"], row["n"]) for row in probes] == [
        ("vmoe_base/end_to_end", str(probe.way), str(probe.shots), "3"),
        ("vmoe_base/m2mkd", str(probe.way), str(probe.shots), "3"),
    ]
    ood = read("ood.csv")
    assert {(row["classes"], row["images"], row["images_left_out"]) for row in ood} == {("6", "1000", "12")}
    renditions = {(row["variant"], row["rendition"]): row for row in read("renditions.csv")}
    assert float(renditions["m2mkd", "edges"]["top1_mean"]) == pytest.approx(0.93 / 4)


def test_published_numbers_stand_beside_with_their_status(study):
    compile_tables(Results.read(study))
    rows = {row["variant"]: row for row in read("results.csv") if row["experiment"] == "nac_tiny_imagenet_scale_free"}
    assert (rows["end_to_end"]["published_iid"], rows["end_to_end"]["published_iid_paper"]) == ("60.76", "nac")
    assert (rows["m2mkd"]["published_iid"], rows["m2mkd"]["published_iid_status"]) == ("", "NOT FOUND")


def test_the_papers_own_number_comes_first(tmp_path):
    header = "experiment,variant,split,metric,value,unit,source,status\n"
    (tmp_path / "aaa.csv").write_text(header + "one,way,iid,top1,10,percent,there,VERIFIED\n")
    (tmp_path / "m2mkd.csv").write_text(header + "one,way,iid,top1,20,percent,here,VERIFIED\n")
    numbers = PublishedNumbers(tmp_path)
    assert str(numbers.find("one", "way", "iid")) == "20 (m2mkd, VERIFIED)"
    assert numbers.find("another", "one/way", "iid") == numbers.find("one", "way", "iid")
    assert numbers.find("one", "other", "iid") is None
    (tmp_path / "m2mkd.csv").write_text(header + "one,way,iid,top1,twenty,percent,here,VERIFIED\n")
    with pytest.raises(InputError, match=r"m2mkd\.csv, line 2: value 'twenty' is not a number"):
        PublishedNumbers(tmp_path)
    (tmp_path / "m2mkd.csv").write_text("experiment,value\n")
    with pytest.raises(InputError, match=r"m2mkd\.csv: the columns are"):
        PublishedNumbers(tmp_path)


def test_equal_runs_give_equal_bytes(study):
    compile_tables(Results.read(study))
    before = contents()
    finish(study)  # the same numbers at another time
    compile_tables(Results.read(study))
    assert contents() == before
    assert "seconds" not in pd.read_parquet("results/smoke/tables/runs.parquet").columns
    assert not any(str(Path.cwd()).encode() in content for content in before.values())


def test_the_receipt_names_every_run_and_is_the_only_one(study, tmp_path):
    compile_tables(Results.read(study))
    receipt = json.loads(Path(f"results/smoke/tables/study-{study.key}.json").read_text())
    assert list(receipt["runs"]) == sorted(study.runs)
    other = plan(tmp_path, "smoke", ["teacher_deit_large"])
    finish(other)
    compile_tables(Results.read(other))
    names = {path.name for path in Path("results/smoke/tables").iterdir()}
    assert {name for name in names if name.startswith("study-")} == {f"study-{other.key}.json"}
    # What belongs to the other study alone is gone too.
    assert "results.csv" not in names and "teacher.csv" in names


def test_a_run_of_another_configuration_leaves_the_tables_as_they_were(study):
    compile_tables(Results.read(study))
    before = contents()
    edit_record(study, first(study, "evaluate"), lambda record: record["config"].update(threads=9))
    with pytest.raises(InputError, match=r"config\.threads is 9"):
        compile_tables(Results.read(study))
    assert contents() == before


def test_metrics_for_dvc_are_means_and_gains(study):
    treated = {run_id for row in study.rows if row.variant == "m2mkd" for run_id in row.measured}
    finish(study, lambda run, seed: by_seed(run, seed) + (0.01 * seed if run.id in treated else 0.0))
    compile_tables(Results.read(study))
    metrics = json.loads(Path("results/smoke/metrics.json").read_text())
    found = metrics["nac_tiny_imagenet_scale_free"]["m2mkd"]["corrected"]
    # 0, 1 and 2 points over the same seed from scratch; out of distribution half as many.
    assert found == pytest.approx({"iid_top1": 0.94, "iid_top5": 1, "ood_top1": 0.47, "ood_top5": 1, "iid_gain": 0.01, "ood_gain": 0.005})
    assert "iid_gain" not in metrics["nac_tiny_imagenet_scale_free"]["end_to_end"]["corrected"]
    assert metrics["fewshot_cifar100_vmoe"]["vmoe_base/m2mkd"]["corrected"]["fewshot_top1"] == pytest.approx(0.93)
    assert metrics["teacher_deit_large"]["teacher"]["corrected"]["iid_top1"] == 0.9


def test_mean_curves_have_a_column_a_variant_and_no_gap(study):
    compile_tables(Results.read(study))
    first_epoch, second, third = read("mean_curves.csv")
    students = [f"nac_tiny_imagenet_scale_free/{variant}" for variant in ("end_to_end", "m2mkd")]
    students += ["vmoe_base/m2mkd", "fewshot_cifar100_vmoe/vmoe_base/end_to_end"]  # the latter is there for the probe alone
    assert set(first_epoch) == {"epoch", *(f"{column} {student}" for column in COLUMNS for student in students)}
    assert [line["epoch"] for line in (first_epoch, second, third)] == ["1", "2", "3"]
    # Measured from the second epoch on: seeds of 90, 92 and 97 %, one point more in the second.
    accuracies = [float(line["val_top1 vmoe_base/m2mkd"]) for line in (first_epoch, second, third)]
    assert accuracies == pytest.approx([0.94, 0.94, 0.93])
    assert [float(line["cross_entropy vmoe_base/m2mkd"]) for line in (first_epoch, second, third)] == [3.0, 1.5, 1.0]
    assert all(value for line in (first_epoch, second, third) for value in line.values())


def test_dvc_draws_columns_of_the_mean_curves():
    drawn = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    columns = [name for plot in drawn for found in plot.values() for table, name in found["y"].items() if table.endswith("mean_curves.csv")]
    small = {(row.experiment, row.variant) for row in build_study(load.settings({"scale": "small"})).rows}
    for name in (name for some in columns for name in some):
        column, _, row = name.partition(" ")
        assert column in COLUMNS and tuple(row.split("/")) in small
    assert sum(map(len, columns)) == 10


def test_both_profiles_have_their_own_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = plan(tmp_path, "smoke", ["vmoe_base/m2mkd"], ["profiles=[released, corrected]"])
    released = {run_id for row in study.rows if row.profile == "released" for run_id in row.measured}
    finish(study, lambda run, _: 0.2 if run.id in released else 0.8)
    compile_tables(Results.read(study))
    assert {row["profile"]: row["iid_top1_mean"] for row in read("results.csv")} == {"released": "0.2", "corrected": "0.8"}
