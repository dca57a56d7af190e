"""Copies of the project in which whole workflows run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from m2mkd.containers.source import project_files
from tests.workflow.servers import need

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
VARIABLES = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "true"}


class Project:
    """A copy of the project with nothing computed in it, and the commands that people type there."""

    def __init__(self, root: Path, scale: str):
        self.root, self.scale = root, scale

    @property
    def environment(self) -> dict[str, str]:
        """Variables as after activating the virtual environment."""
        inherited = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PYTEST")
        }
        return inherited | VARIABLES | {"PATH": f"{BIN}:{os.environ['PATH']}"}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there; its failure fails the test with all that it printed."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if check and done.returncode:
            pytest.fail(
                f"{' '.join(command)} exited with {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}\n{self.failures()}"
            )
        return done

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the workflow at the project's scale."""
        return self.run("snakemake", "--cores", "all", *arguments, "--config", f"scale={self.scale}", check=check)

    def jobs(self, *arguments: str) -> list[str]:
        """Rules of the jobs that Snakemake runs now, sorted; each as often as its table of jobs says."""
        printed = self.snakemake(*arguments)
        table = re.search(r"^job +count\n[ -]+\n((?:\w+ +\d+\n)+)", printed.stdout + printed.stderr, flags=re.MULTILINE)
        rows = [line.split() for line in table[1].splitlines()] if table else []
        return sorted(rule for rule, count in rows if rule != "total" for _ in range(int(count)))

    def set_config(self, **changes: object) -> None:
        """Edit ``config/config.yaml``."""
        import yaml

        path = self.root / "config" / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def clone(self, target: Path) -> "Project":
        """Commit everything that git would track, and clone it."""
        for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "state", "--allow-empty"]):
            self.run("git", *command)
        self.run("git", "clone", "-q", ".", str(target))
        return Project(target, self.scale)

    def folder(self, pattern: str) -> Path:
        """The one folder or file under the results of the scale that fits a pattern."""
        (found,) = (self.root / "results" / self.scale).glob(pattern)
        return found

    def failures(self) -> str:
        """Ends of the logs of jobs that failed."""
        logs = sorted((self.root / "results" / self.scale / "logs").rglob("*.log"))
        return "\n".join(f"{log}: {text[-1500:]}" for log in logs if "Error" in (text := log.read_text()) or "m2mkd:" in text)


def copy_project(target: Path, paths: Sequence[str] = ()) -> None:
    """Copy what git tracks or would track, and further paths."""
    for name in [*project_files(ROOT), *paths]:
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    same_commit = os.environ | {"GIT_AUTHOR_DATE": "2024-02-26T00:00Z", "GIT_COMMITTER_DATE": "2024-02-26T00:00Z"}
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "copy"]):
        subprocess.run([*git, *command], cwd=target, check=True, stdout=subprocess.DEVNULL, env=same_commit)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An untouched copy at scale smoke."""
    copy_project(tmp_path)
    return Project(tmp_path, "smoke")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which the whole workflow has run at scale smoke. Tests must leave it as they found it.

    It is computed once for all processes that share the tests, each of which has it to itself, and once for all test sessions of the same
    commit where ``M2MKD_SMOKE`` names a folder for it.
    """
    beside_others = "PYTEST_XDIST_WORKER" in os.environ
    own = tmp_path_factory.getbasetemp()
    root = Path(os.environ.get("M2MKD_SMOKE") or (own.parent if beside_others else own) / "smoke")
    project = Project(root, "smoke")
    with FileLock(f"{root}.lock"):
        if not (root / "config").is_dir():
            copy_project(root)
            project.set_config(scale="smoke")
        project.snakemake()
    return Project(Path(shutil.copytree(root, own / "own-smoke", symlinks=True)), "smoke") if beside_others else project


def prepared(root: Path) -> Project:
    """A copy of the project at the scale of acceptance, in which ``make reproduce`` finds its environment."""
    root.mkdir()
    copy_project(root)
    project = Project(root, os.environ.get("M2MKD_ACCEPTANCE_SCALE", "small"))
    project.set_config(scale=project.scale)
    (root / ".venv").symlink_to(ROOT / ".venv")
    return project


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which the workflow has run at that scale without any trouble. Tests must leave it as they found it."""
    project = prepared(tmp_path_factory.mktemp("acceptance") / "undisturbed")
    project.snakemake()
    return project


@pytest.fixture(scope="session")
def kept(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of it that DVC has seen, with everything in a remote. Tests must leave it as they found it."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(finished.root, folder / "project", symlinks=True)
    project = Project(folder / "project", finished.scale)
    project.run("dvc", "repro")
    project.run("dvc", "remote", "add", "--default", "store", str(folder / "store"))
    project.run("dvc", "push")
    return project


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Project], Project]:
    """Makes a copy of a project with all that was computed in it."""

    def copy(original: Project) -> Project:
        shutil.copytree(original.root, tmp_path / "copy", symlinks=True)
        return Project(tmp_path / "copy", original.scale)

    return copy


@pytest.fixture(scope="module")
def copied_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Project], Project]:
    """The same for all tests of a module."""

    def copy(original: Project) -> Project:
        return Project(Path(shutil.copytree(original.root, tmp_path_factory.mktemp("copied") / "copy", symlinks=True)), original.scale)

    return copy


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    need(chromium, "no chromium; on Debian: apt-get install -y chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        need(None, "no playwright; install the extra dev")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def apptainer() -> str:
    """A real Apptainer."""
    from m2mkd.containers.image import runtime
    from tests.workflow.images import missing

    if not any(shutil.which(name) for name in ("apptainer", "singularity")):
        missing("no apptainer on the PATH; 'make standin' makes one on Debian")
    return runtime()


@pytest.fixture(scope="session")
def sif(apptainer: str) -> Path:
    """The image for the CPU."""
    from tests.workflow.images import find_image

    return find_image("cpu", apptainer)
