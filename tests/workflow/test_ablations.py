"""A new ablation is one file and one row of claims.tsv, and no code."""

import csv
import json

from tests.workflow.studies import add_ablation

CLAIM = {
    "id": "new_claim",
    "claim": "The released initialisation of the experts hurts.",
    "source": "this test",
    "status": "PREDICTED",
    "subject": "suite",
    "profile": "corrected",
    "metric": "iid_top1",
    "population": "ablation_new",
    "comparison": "trunc02 - fastmoe",
    "aggregate": "each",
    "direction": "greater",
    "size": "",
    "unit": "points",
    "tolerance": "0",
    "scale": "smoke",
    "seeds": "6",
}


def test_a_new_ablation_is_one_file_and_one_row(finished, copy_of):
    project = copy_of(finished)
    assert "ablations" not in project.jobs("ablations")  # scale smoke has none of its own
    add_ablation(project)
    claims = project.root / "config/claims.tsv"
    header = claims.read_text().partition("\n")[0].split("\t")
    claims.write_text(claims.read_text() + "\t".join(CLAIM[name] for name in header) + "\n")

    planned = {"train_student": 1, "evaluate": 1, "ablations": 1}
    listed = project.jobs("ablations", "--dry-run")
    assert {name: listed.count(name) for name in listed} == planned
    # The study has a new claim to judge, but no new run.
    assert sorted(project.jobs("--dry-run")) == ["all", "compile", "report", "track"]
    assert sorted(project.jobs("ablations")) == sorted(planned)
    assert project.jobs("ablations") == []

    pages = project.root / "results/smoke/ablations"
    lines = list(csv.DictReader((pages / "tables/ablations.csv").read_text().splitlines()))
    assert [(line["ablation"], line["setting"], line["reference"]) for line in lines] == [
        ("ablation_new", "trunc02", ""),
        ("ablation_new", "fastmoe", "trunc02"),
    ]
    own = json.loads((project.root / "results/smoke/metrics.json").read_text())["vmoe_base"]["end_to_end"]["corrected"]
    assert float(lines[0]["iid_top1_mean"]) == own["iid_top1"]
    assert lines[1]["iid_difference"] and not lines[1]["iid_difference_half_width"]
    judged = json.loads((pages / "tables/claims.json").read_text())["new_claim"]
    assert (judged["verdict"], judged["seeds"], judged["needs"]) == ("inconclusive", 1, "5 more seeds of each arm.")
    assert 'id="claim-new_claim"' in (pages / "report.html").read_text()
    assert "new_claim" not in (project.root / "results/smoke/tables/claims.json").read_text()
