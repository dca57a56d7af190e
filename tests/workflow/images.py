"""The images of the project, for tests that need a real one."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from m2mkd.containers.source import source_digest
from tests.workflow.conftest import ROOT, Project


def missing(message: str) -> None:
    """Skip, or fail where everything is required."""
    if os.environ.get("M2MKD_REQUIRE") == "all":
        pytest.fail(message)
    pytest.skip(message)


def find_image(accelerator: str, apptainer: str) -> Path:
    """The SIF of the project, which must hold the package as it is now."""
    path = ROOT / "containers" / f"m2mkd-{accelerator}.sif"
    if not path.is_file():
        missing(f"{path} is absent; 'make image-{accelerator}' makes it")
    labels = subprocess.run([apptainer, "inspect", "--labels", path], capture_output=True, text=True, check=True).stdout
    if f"org.m2mkd.source: {source_digest(ROOT / 'm2mkd')}" not in labels:
        missing(f"{path} holds another m2mkd; 'make image-{accelerator}' makes it again")
    return path


def inside(apptainer: str, sif: Path, *command: str, binds: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the image, and nothing of the host's environment with it."""
    bound = [word for bind in binds for word in ("--bind", bind)]
    return subprocess.run(
        [apptainer, "exec", "--cleanenv", "--no-home", *bound, sif, *command], capture_output=True, text=True, check=check
    )


def on_the_host(project: Project, sif: Path) -> list[str]:
    """Logs of jobs that do not say that they ran in the image, below its read-only root, as the caller."""
    folder = project.root / "results" / project.scale / "logs"
    said = re.compile(rf"^container: {re.escape(str(sif))}, root read-only, uid {os.getuid()}, revision [0-9a-f]{{40}}$", re.M)
    logs = sorted(folder.rglob("*.log"))
    assert logs
    return [str(log.relative_to(folder)) for log in logs if not said.search(log.read_text())]
