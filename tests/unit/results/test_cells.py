"""Names and titles that mean something to a spreadsheet, to Markdown, to LaTeX or to a terminal are shown as they are."""

import io

import pandas as pd
import pytest
from rich.console import Console

from m2mkd.results.tables.layout import DisplayTable, Table, as_csv
from m2mkd.training import progress
from m2mkd.training.update import Progress
from tests.unit.training.stripes import RECIPE

HOSTILE = ["=1+1", "+cmd|' /C calc'!A0", "-2+3|x", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("x")']


def shown(cell: str) -> DisplayTable:
    return Table("t", "A title\nof two lines", ("name|of", "top1"), ((cell, "1.00"), ("b", "2.00")), pd.DataFrame({"name": [cell]}))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_of_a_csv_file_is_a_formula(text: str):
    read = pd.read_csv(io.StringIO(as_csv(pd.DataFrame({"name": [text, "a = b"], "value": [-0.5, 2.0]}))))
    assert list(read["name"]) == ["'" + text.replace("\r", "\n"), "a = b"]
    assert list(read["value"]) == [-0.5, 2.0], "numbers stay numbers"


@pytest.mark.parametrize("number", ["-0.5", "+1.25", "-1.20 ± 0.30"])
def test_a_number_that_is_text_stays_as_it_is(number: str):
    assert as_csv(pd.DataFrame({"gain": [number]})) == f"gain\n{number}\n"


@pytest.mark.parametrize("cell", ["a|b", "a\\|b", "a\nb|", "\r\n|\n", "a\u2028b|c"])
def test_a_cell_of_markdown_ends_neither_itself_nor_its_line(cell: str):
    caption, empty, *lines = shown(cell).to_markdown().splitlines()
    assert (caption, empty, len(lines)) == ("A title of two lines", "", 4)
    for line in lines:
        bars = line.replace("\\\\", "").replace("\\|", "")
        assert bars.count("|") == 3, line


@pytest.mark.parametrize("cell", ["[1cm] x", "*", "50 % of #1 & $x_1^2$", "{\\input{/etc/passwd}}", "a~b\nc"])
def test_a_cell_of_latex_is_text(cell: str):
    comment, *lines = Table.to_latex(shown(cell)).splitlines()
    assert comment == "% A title of two lines"
    (line,) = [line.strip() for line in lines if line.endswith(r"1.00 \\")]
    text = line.removesuffix(r"1.00 \\").strip().removesuffix("&")
    assert not text.startswith(("[", "*"))
    # Without what LaTeX's own commands for these signs are made of, none of them is left.
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\^{}", "{[}", "{*}", *(f"\\{sign}" for sign in "&%$#_{}")):
        text = text.replace(known, "")
    assert not set(text) & set("\\{}&%$#_^~"), text


@pytest.mark.parametrize("title", ["[/bold]", "[red]nac[/red]", "[link=file:///etc/passwd]x[/link]", "{0}"])
@pytest.mark.parametrize("terminal", [False, True])
def test_titles_with_brackets_are_shown_as_they_are(monkeypatch, title: str, terminal: bool):
    seen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=seen, force_terminal=terminal, width=200, color_system=None))
    training = progress.TrainingProgress(RECIPE, 2)
    with training.of({title: 0}):
        training.step(title, Progress(epochs=0, updates=1))
        training.epoch(title, 0, {"loss": 1.0})
    assert title in seen.getvalue()
