"""What docs/security.md promises is held by tests that are there, and no action of others can change under the project."""

import re

import yaml

from tests.conftest import ROOT

PAGE = ROOT / "docs/security.md"


def test_actions_of_others_are_pinned_by_their_commits():
    found = []
    for path in [*ROOT.glob(".github/**/*.yml"), *ROOT.glob(".github/**/*.yaml")]:
        for name, job in yaml.safe_load(path.read_text()).get("jobs", {}).items():
            used = [step["uses"] for step in job.get("steps", []) if "uses" in step] + ([job["uses"]] if "uses" in job else [])
            found += [(path.name, name, action) for action in used if not action.startswith("./")]
    assert found
    assert [one for one in found if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", one[2])] == []


def test_packages_are_installed_by_their_digests():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    installs = [line for line in makefile.splitlines() if re.search(r"pip install .*-r ", line)]
    assert installs and all("--require-hashes" in line for line in installs)
    for lock in sorted((ROOT / "containers/locks").glob("*.txt")):
        wanted = [line for line in lock.read_text().replace("\\\n", " ").splitlines() if "==" in line]
        assert wanted and all("--hash=sha256:" in line for line in wanted), lock.name


def test_every_promise_is_held_by_a_test():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len(rows) > 20 and all(len(row) == 4 and all(row) for row in rows)
    for *_, held in rows:
        file, _, name = held.strip("`").partition("::")
        path = ROOT / "tests/unit" / file
        assert path.is_file() and re.search(rf"^def {re.escape(name)}\(", path.read_text(), flags=re.MULTILINE), held
    named = {row[0] for row in rows}
    assert named >= {"pickle", "image", "archive", "checkpoint", "HTTP", "YAML, `--set`", "table", "JSON", "crate", "MLflow"}
