"""The workflow inside the image that `make image-cpu` made, with a real Apptainer, held against the workflow on the host."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from m2mkd.config.experiment import Settings
from m2mkd.containers.image import runtime
from m2mkd.containers.source import source_digest
from m2mkd.doctor import project as checks
from tests.conftest import ROOT
from tests.workflow.conftest import Project

pytestmark = pytest.mark.container

WITH_TIMES = {"runs.parquet"}
"""Tables that say how long something took."""


def missing(message: str) -> None:
    """Skip, or fail where everything is required."""
    if os.environ.get("M2MKD_REQUIRE") == "all":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def apptainer() -> str:
    """A real Apptainer."""
    if not any(shutil.which(name) for name in ("apptainer", "singularity")):
        missing("no apptainer on the PATH; 'make standin' makes one on Debian")
    return runtime()


def image(accelerator: str, apptainer: str) -> Path:
    """The SIF of the project, which must hold the package as it is now."""
    path = ROOT / "containers" / f"m2mkd-{accelerator}.sif"
    if not path.is_file():
        missing(f"{path} is absent; 'make image-{accelerator}' makes it")
    labels = subprocess.run([apptainer, "inspect", "--labels", path], capture_output=True, text=True, check=True).stdout
    if f"org.m2mkd.source: {source_digest(ROOT / 'm2mkd')}" not in labels:
        missing(f"{path} holds another m2mkd; 'make image-{accelerator}' makes it anew")
    return path


@pytest.fixture(scope="module")
def sif(apptainer) -> Path:
    """The image for the CPU."""
    return image("cpu", apptainer)


def inside(apptainer: str, sif: Path, *command: str, binds: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the image, and nothing of the host's environment with it."""
    bound = [word for bind in binds for word in ("--bind", bind)]
    return subprocess.run(
        [apptainer, "exec", "--cleanenv", "--no-home", *bound, sif, *command], capture_output=True, text=True, check=check
    )


def test_the_whole_workflow_inside_gives_what_it_gives_outside(finished, project, sif):
    # Data on another disk, whose name has a blank: only the bind makes them visible inside.
    outside = ROOT / "build" / "a data root"
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir(parents=True)
    (project.root / "data").symlink_to(outside)
    project.set_config(scale="smoke", container=str(sif), binds=[str(outside)])
    project.snakemake("--use-singularity")
    expected, found = (each.root / "results" / "smoke" for each in (finished, project))

    logs = {log.relative_to(found / "logs"): log.read_text() for log in (found / "logs").rglob("*.log")}
    assert logs.keys() == {log.relative_to(expected / "logs") for log in (expected / "logs").rglob("*.log")}
    said = re.compile(rf"^container: {re.escape(str(sif))}, root read-only, uid {os.getuid()}, revision [0-9a-f]{{40}}$", re.M)
    assert [name for name, text in logs.items() if not said.search(text)] == []
    assert not any("container:" in log.read_text() for log in (expected / "logs").rglob("*.log"))

    weights = [path.relative_to(expected) for path in (expected / "runs").rglob("*.safetensors")]
    metrics = [path.relative_to(expected) for path in (expected / "runs").rglob("metrics.json")]
    tables = [path.relative_to(expected) for path in (expected / "tables").iterdir() if path.name not in WITH_TIMES]
    assert len(weights) > 10 and len(metrics) > 3 and len(tables) > 3
    assert [str(name) for name in weights + metrics + tables if (expected / name).read_bytes() != (found / name).read_bytes()] == []
    assert list(outside.glob("packed/*/*/manifest.json"))
    # Nothing is left in the project by a library that took it for a home folder.
    assert {path.name for path in project.root.iterdir()} == {path.name for path in finished.root.iterdir()}
    report = project.root / "report.html"
    project.snakemake("--use-singularity", "--report", str(report))
    assert sif.name in report.read_text()


def test_a_data_root_with_a_blank_in_its_name_is_seen_inside(apptainer, sif):
    root = ROOT / "build" / "another data root"
    root.mkdir(parents=True, exist_ok=True)
    (root / "pack").touch()
    (found,) = checks.data_roots(Settings(container=str(sif), binds=(str(root),)))
    assert (found.status, found.found) == ("pass", f"{root}, 1 entries inside {sif}")


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
    assert {"locks", "base", "command", "created", "source"} <= facts.keys()
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
    assert found.stderr == "m2mkd: results/smoke is read-only for this user; make it writable, or work in a copy of the project\n"


def refusals(project: Project, *arguments: str) -> list[str]:
    """What a dry run with containers says before it ends with status 2."""
    done = project.run("snakemake", "--cores", "1", "--dry-run", "--use-singularity", *arguments, check=False)
    assert done.returncode == 2
    return [line for line in done.stderr.splitlines() if line.startswith("m2mkd:")]


def test_a_missing_image_and_a_missing_apptainer_are_one_line_each(apptainer, project, monkeypatch):
    (line,) = refusals(project, "--config", "scale=smoke", "container=m2mkd-cpu.sif")
    assert "m2mkd-cpu.sif is not there; 'make image-cpu' makes it" in line
    said = project.run("snakemake", "--cores", "1", "--dry-run", "--use-singularity", "--config", "scale=smoke", "container=none")
    assert "container: none, so every job runs on the host" in said.stderr
    without = [
        folder for folder in os.environ["PATH"].split(":") if not any(Path(folder, name).exists() for name in ("apptainer", "singularity"))
    ]
    monkeypatch.setenv("PATH", ":".join(without))
    if shutil.which("git") and shutil.which("bash"):
        (line,) = refusals(project, "--config", "scale=smoke")
        assert line.startswith("m2mkd: neither apptainer nor singularity is on the PATH")


@pytest.mark.slow
def test_the_image_for_cuda_says_that_no_device_is_there(apptainer):
    found = inside(apptainer, image("cuda", apptainer), "m2mkd", "doctor", "--json", binds=(str(ROOT),), check=False)
    (row,) = [row for row in json.loads(found.stdout) if row["check"] == "gpu"]
    assert re.match(r"torch \d.*, CUDA \d+\.\d+: no device is there", row["found"])
