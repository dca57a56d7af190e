"""The register of deviations: every finding has its line, and every line its switch with a measured effect and a test, or a reason."""

import importlib
import re

import pytest

from m2mkd.config import load
from tests.conftest import ROOT

TESTS = ROOT / "tests"
PAGE = (ROOT / "docs/deviations.md").read_text()
FINDINGS = [f"V{i}" for i in range(1, 36)] + [f"N{i}" for i in range(1, 55)] + [f"D{i}" for i in range(1, 26)]
"""35 of vmoe.md section 7; 52 of nac.md section 16; two that this project found; and 25 of detection.md section 6."""


def table(heading: str) -> dict[str, list[str]]:
    """Cells of the one table under a heading, by the first of them."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert section, heading
    lines = [line for line in section[1].splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len({row[0].strip() for row in rows}) == len(rows), f"{heading}: a row stands twice"
    return {row[0].strip("` "): row for row in rows}


SWITCHES, EFFECTS = table("Switches"), table("Measured effects")
ROWS = table("V-MoE and Deep Incubation") | table("Neural Attentive Circuits")


COCO = table("COCO")
# Detectors have the effect of each row beside it, and no table of effects of those that are no switches.
ROWS |= {name: [*cells[:5], cells[6]] for name, cells in COCO.items()}


def exists(test: str) -> bool:
    """Whether ``file::name`` is a test function, or ``file`` a file of tests; where no folder of tests/ is named, tests/unit is meant."""
    file, _, name = test.partition("::")
    path = ROOT / file if file.startswith("tests/") else TESTS / "unit" / file
    return path.is_file() and bool(not name or re.search(rf"^def {re.escape(name)}\(", path.read_text(), flags=re.MULTILINE))


def test_every_finding_has_its_line():
    assert list(ROWS) == FINDINGS
    assert list(table("Documents and installation")) == ["D1", "D2", "D3", "D4"]
    assert all(len(row) == 6 and all(row) for row in ROWS.values())


def test_switches_are_those_of_the_registry_and_each_has_rows():
    assert list(SWITCHES) == list(EFFECTS) == list(load.switches())
    for name, switch in load.switches().items():
        named = {row for row, cells in ROWS.items() if f"`{name}`" in cells[4]}
        assert named, name
        assert named == set(re.findall(r"[VND]\d+", SWITCHES[name][1])), name
        assert set(re.findall(r"[VND]\d+", switch.about)) <= named, name


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_has_its_values_a_measured_effect_and_a_test(name: str):
    _, _, _, released, corrected, test = SWITCHES[name]
    switch = load.switches()[name]
    assert released.startswith(f"`{switch.released}`") or float(released.split("`")[1]) == switch.released
    assert corrected.startswith(f"`{switch.corrected}`")
    assert exists(test.strip("` "))
    _, measured, *figures = EFFECTS[name]
    assert len(measured) > 20
    assert figures[0] != figures[1]
    assert all(re.search(r"\d", figure) for figure in figures), "an effect is a figure"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_switch_with_a_test_or_a_reason(row: str):
    handle, tests = ROWS[row][4], re.findall(r"`([^`]+)`", ROWS[row][5])
    for test in tests:
        assert exists(test), f"{row}: {test} does not exist"
    named = re.findall(r"`(\w+)`", handle)
    if handle.startswith("no result: "):
        assert len(handle) > len("no result: ") + 5, f"{row}: why is no result affected?"
    elif handle.startswith("setting: "):
        assert tests, row
    else:
        assert named and set(named) <= set(SWITCHES), f"{row}: {handle}"
        assert len(tests) >= 1, row


def test_effects_are_those_that_the_benchmark_measures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("deviations")
    assert set(benchmark.EFFECTS) == set(SWITCHES)
    cheap = {measure.__name__: measure() for measure in benchmark.CHEAP}
    for line in benchmark.markdown(cheap).splitlines()[2:]:
        assert line in PAGE.splitlines(), line
