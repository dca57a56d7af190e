"""The workflow inside the image that `make image-cpu` made, with a real Apptainer, held against the workflow on the host."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2mkd.config.experiment import Settings
from m2mkd.doctor import project as checks
from m2mkd.files import sha256
from tests.conftest import ROOT
from tests.workflow.conftest import Project
from tests.workflow.images import find_image, inside, missing, on_the_host
from tests.workflow.studies import tables

pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def data_root() -> Iterator[Path]:
    """A folder with a blank in its name that only a bind makes visible inside: Apptainer binds the project and these by itself."""
    bound = ("/tmp", "/var/tmp", "/dev")
    parents = [path for path in (Path.home(), Path("/srv")) if os.access(path, os.W_OK) and not str(path.resolve()).startswith(bound)]
    if not parents:
        missing("neither the home folder nor /srv is a place outside /tmp that can be written")
    with tempfile.TemporaryDirectory(prefix="a data root ", dir=parents[0]) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def contained(tmp_path_factory, finished, sif, data_root) -> Project:
    """A clone of ``finished`` in which the workflow has run inside the image, with its data on what may be another disk."""
    root = tmp_path_factory.mktemp("contained")
    # Runs name their commit, so it must be the same one, whatever a build has noted in images.lock since.
    subprocess.run(["git", "clone", "-q", finished.root, root], check=True)
    (root / "data").symlink_to(data_root)
    project = Project(root, "smoke")
    # Modules of one student share a job, which changes no result, and saves starts.
    project.set_config(scale="smoke", container=str(sif), binds=[str(data_root)], overrides={"modules_per_job": 4})
    project.snakemake("--use-singularity")
    return project


def files(project: Project, *patterns: str) -> dict[str, bytes]:
    """Contents of results that fit a pattern, by name."""
    results = project.root / "results" / "smoke"
    return {str(path.relative_to(results)): path.read_bytes() for pattern in patterns for path in results.glob(pattern)}


def test_results_are_those_of_the_host_bit_for_bit(finished, contained):
    published = ("runs/**/*.safetensors", "runs/**/metrics.json*", "metrics.json")
    expected, found = (files(project, *published) | tables(project) for project in (finished, contained))
    assert len(expected) > 40
    assert [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)] == []


def test_each_job_says_that_it_was_inside_and_left_nothing_behind(finished, contained, sif, data_root):
    assert on_the_host(contained, sif) == []
    rules = [{Path(log).parts[1] for log in files(project, "logs/**/*.log")} for project in (contained, finished)]
    assert rules[0] == rules[1]
    assert len(on_the_host(finished, sif)) == len(files(finished, "logs/**/*.log"))
    assert list(data_root.glob("packed/*/*/manifest.json"))
    # Nothing in the project by a library that took it for a home folder.
    assert {path.name for path in contained.root.iterdir()} == {path.name for path in finished.root.iterdir()}


def test_runs_and_mlflow_name_the_image_with_its_digest_and_its_parts(apptainer, contained, sif):
    sbom = inside(apptainer, sif, "sha256sum", "/opt/m2mkd/share/m2mkd/sbom.cdx.json").stdout.split()[0]
    wanted = {"image": str(sif), "digest": f"sha256:{sha256(sif)}", "sbom": sbom}
    records = [json.loads(content)["provenance"]["container"] for content in files(contained, "runs/**/run.json").values()]
    assert len(records) > 20 and all(record.items() >= wanted.items() for record in records)
    with sqlite3.connect(contained.root / "results/mlflow.db") as store:
        tags = store.execute("select distinct key, value from tags where key like 'image%'").fetchall()
    assert dict(tags) == {"image": wanted["image"], "image_digest": wanted["digest"], "image_sbom": sbom} and len(tags) == 3


def test_the_report_and_the_linter_know_the_image(contained, sif, tmp_path):
    contained.snakemake("--use-singularity", "--report", str(tmp_path / "report.html"))
    assert str(sif) in (tmp_path / "report.html").read_text()
    contained.run("snakemake", "--lint")


def test_dvc_computes_inside_what_is_missing(finished, copy_of, sif, monkeypatch):
    project = copy_of(finished)
    project.set_config(container=str(sif))
    run = sorted(project.folder("runs/evaluate").iterdir())[0]
    before = (run / "metrics.json").read_bytes()
    shutil.rmtree(run)
    shutil.rmtree(project.folder("logs"))
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/container")
    project.run("dvc", "repro", "students")
    assert (run / "metrics.json").read_bytes() == before
    assert list(files(project, "logs/**/*.log")) == [f"logs/evaluate/{run.name}.log"] and on_the_host(project, sif) == []


def test_a_data_root_with_a_blank_in_its_name_is_seen_inside(apptainer, sif, data_root):
    (data_root / "pack").touch()
    assert inside(apptainer, sif, "ls", str(data_root), check=False).returncode != 0
    (found,) = checks.data_roots(Settings(container=str(sif), binds=(str(data_root),)))
    entries = len(list(data_root.iterdir()))
    assert (found.status, found.found) == ("pass", f"{data_root}, {entries} entries inside {sif}")


def test_the_image_holds_what_it_says_and_no_data_history_or_cache(apptainer, sif):
    about = "/opt/m2mkd/share/m2mkd"
    held = inside(apptainer, sif, "find", "/opt/m2mkd", "/workspace", "/root", "/home", "/build", "-xdev", check=False).stdout.splitlines()
    assert {f"{about}/{name}" for name in ("lock.txt", "provenance.json", "sbom.cdx.json", "licences.tsv")} <= set(held)
    # What Debian puts into a home folder, and else only the environment.
    elsewhere = [name for name in held if not re.match(r"/opt/m2mkd|/workspace$|/root(/\.(bashrc|profile))?$|/home$", name)]
    assert elsewhere == []
    unwanted = r"/\.git(/|$)|/m2mkd/(data/packed|results/runs)/|\.sif$|/\.cache|/config/config\.yaml$"
    assert [name for name in held if re.search(unwanted, name)] == []
    # Nothing that only root can read.
    assert inside(apptainer, sif, "find", "/opt/m2mkd", "!", "-perm", "-a+r").stdout == ""
    assert inside(apptainer, sif, "cat", f"{about}/lock.txt").stdout == (ROOT / "containers/locks/run-cpu.txt").read_text()
    parts = json.loads(inside(apptainer, sif, "cat", f"{about}/sbom.cdx.json").stdout)
    assert parts["bomFormat"] == "CycloneDX"
    versions = {re.sub(r"[-_.]+", "-", part["name"]).lower(): part["version"] for part in parts["components"]}
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "containers/locks/run-cpu.txt").read_text(), re.M)
    assert [name for name, version in pins if versions.get(name) != version] == []


def test_labels_tell_where_the_image_comes_from(apptainer, sif):
    labels = dict(
        line.split(": ", 1)
        for line in subprocess.run([apptainer, "inspect", "--labels", sif], capture_output=True, text=True, check=True).stdout.splitlines()
        if ": " in line
    )
    facts = json.loads(labels["org.m2mkd.provenance"])
    assert facts == json.loads(inside(apptainer, sif, "cat", "/opt/m2mkd/share/m2mkd/provenance.json").stdout)
    assert labels["org.opencontainers.image.revision"].startswith(facts["revision"])
    assert {"locks", "base", "command", "created", "source", "context"} <= facts.keys()
    assert (labels["org.opencontainers.image.title"], labels["org.m2mkd.accelerator"]) == ("m2mkd", "cpu")


def test_doctor_inside_finds_the_lock_and_a_read_only_root(apptainer, sif):
    found = inside(apptainer, sif, "m2mkd", "doctor", "--json", binds=(str(ROOT),), check=False)
    rows = {row["check"]: row for row in json.loads(found.stdout)}
    assert (rows["image root"]["status"], rows["versions"]["status"], rows["provenance"]["status"]) == ("pass", "pass", "pass")
    assert rows["user"]["status"] == ("pass" if os.getuid() else "warn")


def test_an_engine_runs_the_image_as_a_numeric_user_under_an_init():
    tag = "localhost/m2mkd:cpu"
    engines = [name for name in ("podman", "docker") if shutil.which(name)]
    found = [name for name in engines if subprocess.run([name, "image", "inspect", tag], capture_output=True, check=False).returncode == 0]
    if not found:
        missing(f"no engine has {tag}; 'make image-cpu' makes it")
    program = "import os; print(os.getuid(), os.getgid(), open('/proc/1/comm').read().strip(), os.access('/opt/m2mkd', os.W_OK))"
    command = [found[0], "run", "--rm", "--network=none", tag, "python", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["10001", "10001", "tini", "False"]


def test_results_that_cannot_be_written_are_refused_in_one_line(apptainer, sif, project):
    results = project.root / "results"
    (results / "smoke").mkdir(parents=True, exist_ok=True)
    command = ["sh", "-c", f'cd {project.root} && m2mkd runs plan --config \'{{"scale": "smoke"}}\'']
    found = inside(apptainer, sif, *command, binds=(f"{results}:{results}:ro",), check=False)
    assert found.returncode == 2
    assert found.stderr == "m2mkd: results is read-only for this user; make it writable, or work in a copy of the project\n"


def refusals(project: Project, *arguments: str) -> list[str]:
    """What a dry run with containers says before it ends with status 2."""
    done = project.run("snakemake", "--cores", "1", "--dry-run", "--use-singularity", *arguments, check=False)
    assert done.returncode == 2
    return [line for line in done.stderr.splitlines() if line.startswith("m2mkd:")]


def test_a_missing_image_and_a_missing_apptainer_are_one_line_each(apptainer, project, monkeypatch, tmp_path):
    (line,) = refusals(project, "--config", "scale=smoke", "container=m2mkd-cpu.sif")
    assert "m2mkd-cpu.sif does not exist; 'make image-cpu' makes it" in line
    said = project.run("snakemake", "--cores", "1", "--dry-run", "--use-singularity", "--config", "scale=smoke", "container=none")
    assert "container: none, so every job runs on the host" in said.stderr
    # All programs of this machine but these.
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in {path.name: path for folder in reversed(os.get_exec_path()) for path in Path(folder).glob("*")}.values():
        if program.name not in ("apptainer", "singularity"):
            (programs / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(programs))
    (line,) = refusals(project, "--config", "scale=smoke")
    assert line.startswith("m2mkd: neither apptainer nor singularity is on the PATH")


@pytest.mark.slow
def test_the_image_for_cuda_says_that_no_device_is_there(apptainer):
    if not (ROOT / "containers/m2mkd-cuda.sif").is_file():
        pytest.skip("needs the image for a GPU, whose base is in no package registry; 'make image-cuda' makes it")
    found = inside(apptainer, find_image("cuda", apptainer), "m2mkd", "doctor", "--json", binds=(str(ROOT),), check=False)
    (row,) = [row for row in json.loads(found.stdout) if row["check"] == "gpu"]
    assert re.match(r"torch \d.*, CUDA \d+\.\d+: no device found", row["found"])
