"""What tutorials tell people to type works, and what reference pages say of files and tags is what a finished study has."""

import os
import re
import sqlite3
import subprocess
from fnmatch import fnmatchcase

import pytest

from tests.conftest import ROOT
from tests.site import SHELLS, blocks

TUTORIALS = sorted(path.name for path in (ROOT / "docs/tutorials").glob("*.md") if any(block.mark == "run" for block in blocks(path)))
KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{16,64}(?![0-9a-f])")


@pytest.mark.parametrize("name", TUTORIALS)
def test_what_a_tutorial_says_works(finished, copy_of, name):
    project = copy_of(finished)
    (project.root / ".venv").symlink_to(ROOT / ".venv")
    # What a tutorial installs is in the copy alone, and asks no registry for what builds it.
    site = str(project.root / "site")
    # The value 0 is what turns the isolation of builds off.
    own = {"PIP_TARGET": site, "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [site, project.environment.get("PYTHONPATH")]))
    for block in blocks(ROOT / "docs/tutorials" / name):
        if block.mark == "run":
            done = subprocess.run(
                [*SHELLS[block.language], block.text],
                cwd=project.root,
                env=project.environment | own,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{name}:\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def named(page: str) -> list[str]:
    """What stands in code in the first column of the tables of a page."""
    lines = (ROOT / page).read_text().splitlines()
    return [code for line in lines if line.startswith("| `") for code in re.findall(r"`([^`]+)`", line.split(" | ")[0])]


def unexplained(files: list[str], patterns: list[str]) -> list[str]:
    """Files that no line of the page speaks of; a pattern that ends in a slash is for all below it."""
    globs = [re.sub(r"PHASE|KEY|NAME|PIXELS", "*", pattern) + ("*" if pattern.endswith("/") else "") for pattern in patterns]
    return [file for file in files if not any(fnmatchcase(KEY.sub("KEY", file), glob) for glob in globs)]


def test_every_output_file_is_explained(finished):
    patterns = named("docs/reference/output.md")
    patterns += [f"{pattern}.{suffix}" for pattern in patterns if pattern.startswith("tables/") for suffix in ("csv", "md", "tex", "html")]
    root = finished.root / "results" / finished.scale
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()]
    assert len(files) > 100 and unexplained(files, patterns) == []
    beside = {f"results/{path.name}" for path in (finished.root / "results").iterdir()} - {"results/smoke", "results/published"}
    assert unexplained(sorted(beside), [pattern.rstrip("/") for pattern in patterns]) == []
    assert unexplained(["tables/new.csv"], patterns) == ["tables/new.csv"]


def test_every_tag_of_a_run_is_explained(finished):
    with sqlite3.connect(finished.root / "results/mlflow.db") as store:
        tags = {key for (key,) in store.execute("select distinct key from tags")}
    assert {"level", "key", "record"} < tags
    assert unexplained(sorted(tags), named("docs/reference/mlflow.md")) == []
