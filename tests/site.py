"""The documentation site, built as ``make site`` does, and the commands that its pages tell people to type."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT
from tests.workflow.servers import need

FENCE = re.compile(r"^```(?P<language>\w+)(?: (?P<mark>[^\n]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    mark: str
    """``run``, ``slow``, ``needs`` and what, or nothing."""
    text: str


def build_site(folder: Path) -> Path:
    """The whole site in ``folder``, built strictly; a warning fails the test with what was printed."""
    need(importlib.util.find_spec("mkdocs"), "no mkdocs; install the extra dev")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def blocks(page: Path) -> list[Block]:
    """Blocks of code of a page, in their order."""
    return [Block(found["language"], found["mark"] or "", found["text"]) for found in FENCE.finditer(page.read_text())]
