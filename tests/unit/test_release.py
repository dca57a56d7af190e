"""What a release is cited, checked and reported by agrees with the code."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import m2mkd
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.compile import compiled
from m2mkd.study.phases import Evaluate
from m2mkd.study.receipt import REPORT
from tests.conftest import ROOT
from tests.fabricated import finish, measured, plan

FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
RESULTS = "results/small/"


def read_yaml(name: str | Path):
    return yaml.safe_load((ROOT / name).read_text())


def with_graphs(config, top1):
    """Measurements of an evaluation, which examines the graph of a NAC too."""
    found = measured(config, top1)
    if isinstance(config, Evaluate) and config.student.family == "nac":
        graph = {"density": 0.5, "input_density": 0.9, "clustering": 0.25, "mean_degree": 1.0, "bandwidths": [1.0, 1.0]}
        found["diagnostics"] = {"images": 32, "layers": [], "mediator_share": [1.0], "output_weights": [1.0], "graph": graph}
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> set[str]:
    """Files of a whole small study, relative to the project."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("small")
        patch.chdir(folder)
        study = plan(folder, "small")
        finish(study, metrics=with_graphs)
        return {RESULTS + name for name in (*compiled(Results.read(study)), *REPORT)}


def test_the_version_is_in_one_place_and_quoted_alike():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and project["tool"]["hatch"]["version"]["path"] == "m2mkd/__init__.py"
    assert read_yaml("CITATION.cff")["version"] == m2mkd.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"(?m)^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changes)
    coming = re.findall(r"The first release will be (\d+\.\d+\.\d+)\.", changes)
    assert (released or coming)[:1] == [m2mkd.__version__]
    assert bool(released) != bool(coming), "the announcement goes with the first release"


def test_the_changelog_keeps_its_form():
    headings = re.findall(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])


def test_the_citation_has_what_its_format_needs():
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(citation[field] for field in ("message", "title", "authors", "license", "abstract"))
    paper = citation["preferred-citation"]
    assert all(paper[field] for field in ("type", "title", "authors", "year", "url"))
    assert paper["doi"] == "10.48550/arXiv.2402.16918" and paper["title"] != citation["title"]
    for author in (*citation["authors"], *paper["authors"]):
        assert author.keys() >= {"name"} or author.keys() >= {"given-names", "family-names"}


def test_the_codecheck_manifest_names_what_the_workflow_makes(shown):
    text = (ROOT / "codecheck.yml").read_text()
    check = yaml.safe_load(text)
    files = [entry["file"] for entry in check["manifest"]]
    assert text.startswith("---\n") and all(entry["comment"] for entry in check["manifest"])
    assert len(set(files)) == len(files) and set(files) <= shown
    assert {RESULTS + "report.html", RESULTS + "tables/claims.json"} <= set(files)


def test_the_codecheck_paper_is_the_one_that_is_cited():
    paper, cited = read_yaml("codecheck.yml")["paper"], read_yaml("CITATION.cff")["preferred-citation"]
    assert paper["title"] == cited["title"] and paper["reference"].endswith(cited["doi"])
    assert [author["name"] for author in paper["authors"]] == [f"{a['given-names']} {a['family-names']}" for a in cited["authors"]]


@pytest.mark.parametrize("page", ["README.md", "reproduce.sh"])
def test_files_of_the_small_study_that_a_stranger_is_sent_to_are_made(page, shown):
    named = set(re.findall(r"results/small/[\w/.]+\.(?:html|png|json|csv|md|parquet)", (ROOT / page).read_text()))
    assert named and named <= shown


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_forms_of_issues_are_whole(form):
    content = read_yaml(form)
    if form.stem == "config":
        assert isinstance(content["blank_issues_enabled"], bool)
        return
    assert content["name"] and content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert len({field["id"] for field in fields}) == len(fields) and all(field["attributes"]["label"] for field in fields)


def test_who_reports_another_result_is_asked_for_what_decides_it():
    body = read_yaml(".github/ISSUE_TEMPLATE/result_differs.yml")["body"]
    needed = {field["id"] for field in body if field.get("validations", {}).get("required")}
    assert needed >= {"run", "claims", "hardware", "command"}


def test_the_catalogue_offers_containers():
    usage = read_yaml(".snakemake-workflow-catalog.yml")["usage"]
    assert usage["software-stack-deployment"]["apptainer"] is True and usage["report"] is True


def test_the_development_container_is_of_the_base_of_the_images():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert f"ARG BASE_IMAGE={container['image']}\n" in (ROOT / "containers/Dockerfile").read_text()


def test_the_script_says_in_one_line_what_is_missing(tmp_path):
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    ended = subprocess.run(
        ["/bin/sh", str(ROOT / "reproduce.sh")], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and ended.stderr == "reproduce.sh: python3 was not found; install Python 3.11 or later\n"
