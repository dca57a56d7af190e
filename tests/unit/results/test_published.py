"""Filling a published number that nobody had seen."""

import shutil
from pathlib import Path

import pytest

from m2mkd.errors import InputError
from m2mkd.results.read.published import COLUMNS, PublishedNumbers, fill_cell
from tests.fabricated import ROOT

CELL = ("nac_tiny_imagenet_scale_free", "m2mkd", "iid", "top1")
SOURCE = "v3, table 1; https://arxiv.org/abs/2402.16918"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    shutil.copytree(ROOT / "results/published", tmp_path / "results/published")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results/published"


def test_one_cell_and_nothing_else(folder, typed):
    before = {path.name: path.read_text().splitlines() for path in folder.glob("*.csv")}
    assert typed("published", "set", "m2mkd", *CELL[:3], "66.36", "--source", SOURCE)[0] == 0
    after = {path.name: path.read_text().splitlines() for path in folder.glob("*.csv")}
    changed = [(name, one, other) for name in before for one, other in zip(before[name], after[name], strict=True) if one != other]
    ((name, _, line),) = changed
    assert name == "m2mkd.csv" and line.startswith("nac_tiny_imagenet_scale_free,m2mkd,iid,top1,66.36,percent")
    cell = PublishedNumbers(folder).find(*CELL[:3])
    assert (cell.value, cell.status, cell.source) == (66.36, "VERIFIED", SOURCE)


def test_a_value_is_never_replaced(folder):
    fill_cell("m2mkd", CELL, 66.36, SOURCE, "SECONDARY", folder)
    before = (folder / "m2mkd.csv").read_bytes()
    with pytest.raises(InputError, match=r"is 66\.36 \(SECONDARY, v3, table 1.*already"):
        fill_cell("m2mkd", CELL, 70.0, SOURCE, folder=folder)
    assert (folder / "m2mkd.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paper": "m3kd"}, "no such paper; there are deep_incubation, m2mkd"),
        ({"where": ("vmoe_bass", *CELL[1:])}, "0 cells are vmoe_bass m2mkd iid top1"),
        ({"status": "DERIVED"}, "status 'DERIVED': a number that was seen is VERIFIED or SECONDARY"),
        ({"source": " "}, "source: empty"),
        ({"value": 663.6}, "value 663.6: the cell is in percent"),
        ({"value": float("nan")}, "value nan"),
    ],
)
def test_what_cannot_be_is_refused(folder, changes, message):
    before = (folder / "m2mkd.csv").read_bytes()
    good = {"paper": "m2mkd", "where": CELL, "value": 66.36, "source": SOURCE}
    with pytest.raises(InputError, match=message):
        fill_cell(**good | changes, folder=folder)
    assert (folder / "m2mkd.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"one,way,iid,top1,1.0,percent,a, table 1,VERIFIED", "line 2: does not have 8 cells; quote"),
        (b"one,way,iid,top1,1.0,percent,a", "line 2: does not have 8 cells"),
        (b"one,way,iid,top1,nan,percent,a,VERIFIED", "line 2: value 'nan' is not a number"),
        (b"one,way,iid,top1,1.0,percent,\xe9,VERIFIED", "m2mkd.csv: not a table in UTF-8"),
    ],
)
def test_a_damaged_file_is_refused_by_line(folder, line, message):
    (folder / "m2mkd.csv").write_bytes(",".join(COLUMNS).encode() + b"\n" + line + b"\n")
    with pytest.raises(InputError, match=message):
        PublishedNumbers(folder)


def test_cells_that_are_told_apart_by_nothing_are_refused(folder):
    lines = [",".join(COLUMNS), *["one,way,iid,top1,,percent,,NOT FOUND"] * 2]
    (folder / "m2mkd.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="2 cells are one way iid top1"):
        fill_cell("m2mkd", ("one", "way", "iid", "top1"), 1.0, SOURCE, folder=folder)
