"""Distributions of other people: one made up of a module, and the examples as pip installs them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def made_up(folder: Path, patch: pytest.MonkeyPatch, group: str, point: str, source: str, distribution: str) -> Path:
    """Put a distribution of one module with one entry point, such as ``made = made_plugin:Made``, on the path; gives its folder."""
    module = point.partition("=")[2].partition(":")[0].strip()
    site = folder / distribution
    metadata = site / f"{distribution.replace('-', '_')}-2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{point}\n")
    (site / f"{module}.py").write_text(source)
    patch.delitem(sys.modules, module, raising=False)
    patch.syspath_prepend(site)
    return site


def installed(example: str, folder: Path) -> Path:
    """Install one of the examples into a folder of its own by pip; gives what to put on the path."""
    shutil.copytree(ROOT / "examples/plugins" / example, folder / "source")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", folder / "source"], check=True, cwd=folder
    )
    return folder / "site"


def project_with(folder: Path, entry: str) -> Path:
    """A copy of the configuration and of the published numbers, with one more model, which is called ``mine``."""
    shutil.copytree(ROOT / "results/published", folder / "results/published", dirs_exist_ok=True)
    shutil.copytree(ROOT / "config", folder / "config", dirs_exist_ok=True)
    (folder / "config/models.yaml").write_text(f"{(ROOT / 'config/models.yaml').read_text()}\nmine: {entry}\n")
    return folder
