"""Arms that have seen different labelled images are marked wherever they are compared."""

import csv
import io
import json
from pathlib import Path

import pytest

from m2mkd.results.judge.board import Finding
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from tests.fabricated import finish, plan
from tests.unit.results.boards import STUDENTS, gaining

EXPERIMENTS = (*STUDENTS, "ablation_expert_init")
HOW = "m2mkd 100 % of digits; end_to_end 50 % of digits"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def compiled(root: Path, share: float) -> Finding:
    """What is found of m2mKD's gain where students end to end see a share of the labelled images, and the teacher all of them."""
    plan(root, "small", STUDENTS)
    scale = Path("config/scales/small.yaml")
    named = "  vmoe_end_to_end_100: *student_recipe\n"
    assert named in scale.read_text()
    changed = f"  vmoe_end_to_end_100: {{<<: *student_recipe, train_share: {share}}}\n"
    scale.write_text(scale.read_text().replace(named, changed))
    study = plan(root, "small", EXPERIMENTS, seeds=2)
    finish(study, gaining(study))
    results = Results.read(study)
    compile_tables(results)
    write_report(results)
    return next(finding for finding in results.findings if finding.claim.id == "small_vmoe_iid")


def labels(name: str, column: str) -> dict[str, str]:
    lines = csv.DictReader(io.StringIO(Path("results/small/tables", f"{name}.csv").read_text()))
    return {line[column]: line["labelled_images"] for line in lines}


def test_unequal_arms_are_marked(tmp_path):
    finding = compiled(tmp_path, 0.5)
    assert finding.unequal == HOW
    assert finding.why.endswith(f" The arms saw different labelled images: {HOW}.")
    assert json.loads(Path("results/small/tables/claims.json").read_text())["small_vmoe_iid"]["unequal_labels"] == HOW
    assert labels("claims", "id")["small_vmoe_iid"] == "unequal"
    results = labels("results", "variant")
    assert (results["end_to_end"], results["m2mkd"]) == ("equal", "unequal")
    settings = labels("ablations", "setting")
    # Each beside the setting that it is compared with.
    unequal = {"m2mkd_trunc02": "unequal", "m2mkd_fastmoe": "equal", "end_to_end_trunc02": "equal", "end_to_end_fastmoe": "equal"}
    assert settings == unequal
    page = Path("results/small/report.html").read_text()
    assert f"Unequal labelled images ({HOW})" in page and "<td>unequal</td>" in page


def test_equal_arms_are_not(tmp_path):
    finding = compiled(tmp_path, 1.0)
    assert finding.unequal == "" and "labelled images" not in finding.why
    assert {*labels("claims", "id").values(), *labels("results", "variant").values(), *labels("ablations", "setting").values()} == {"equal"}
    page = Path("results/small/report.html").read_text()
    assert "Unequal labelled images" not in page and "<td>unequal</td>" not in page
