"""The forest plot, and what is said of claims that a study does not judge."""

import pytest

from m2mkd.results.report.contrasts import contrasts
from m2mkd.results.report.elsewhere import as_one
from m2mkd.results.report.forest import COLOURS, FOREST_CAPTION, forest_figure, forest_illustrations
from m2mkd.results.report.plots import GROUND, SERIES
from m2mkd.results.report.svg import inline_svg, marks_json
from tests.unit.results.boards import GAIN


def drawn(**records):
    return contrasts({name: GAIN | changes for name, changes in records.items()}, "small")


def test_it_draws_every_claim_with_its_intervals_and_seeds():
    (axes,) = forest_figure(drawn(one={}, two={"verdict": "inconclusive", "decided": False, "family": "nac", "estimate": -1.0})).axes
    filled, hollow = axes.lines
    assert (filled.get_xdata()[0], hollow.get_xdata()[0]) == (4.21, -1.0)
    assert (filled.get_color(), filled.get_markerfacecolor()) == (SERIES[COLOURS["reproduced"]],) * 2
    assert hollow.get_markerfacecolor() == GROUND
    segments = [tuple(segment[:, 0]) for lines in axes.collections if hasattr(lines, "get_segments") for segment in lines.get_segments()]
    assert segments == [(0, 0), (2.04, 6.4), (3.0, 5.4)] * 2
    dots = [list(points.get_offsets()[:, 0]) for points in axes.collections if not hasattr(points, "get_segments")]
    assert dots == [[4.0, 4.42]] * 2
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["V-MoE", "m2mKD - end to end, IID", "+4.2 [+2.0, +6.4]", "NAC", "m2mKD - end to end, IID", "-1.0 [+2.0, +6.4]"]
    assert "6 seeds, 95 % intervals" in axes.get_xlabel()


def test_other_units_have_a_panel_of_their_own():
    figure = forest_figure(drawn(one={}, two={"metric": "graph_density"}, three={"unit": "relative"}))
    assert [axes.get_xlabel().partition(";")[0] for axes in figure.axes] == [
        "difference in top-1, points",
        "difference in density of the graph, points",
        "difference in top-1, % of the baseline",
    ]


def test_what_has_no_interval_is_not_drawn():
    nothing = {"estimate": None}
    assert forest_illustrations(drawn(one=nothing)) == []
    (found,) = forest_illustrations(drawn(one=nothing, two={}))
    assert found.description.count("m2mKD - end to end, IID: +4.2 [+2.0, +6.4], reproduced") == 1 and found.caption == FOREST_CAPTION
    text = inline_svg(found.figure, found.name, found.description)
    assert GROUND not in text and "m2mKD, seed" not in text
    assert "V-MoE, m2mKD - end to end, IID, seed 11: +4.42" in marks_json(found.figure)


@pytest.mark.parametrize(
    ("sentences", "one"),
    [
        (["A cat sits."], "A cat sits."),
        (["A cat sits.", "A dog sits."], "A cat / dog sits."),
        (["It reaches 1.5%, as a.", "It reaches 2%, as b."], "It reaches 1.5% / 2%, as a / b."),
        (["A cat sits.", "A cat sits here."], None),
        (["a b c d", "e f g h"], None),
    ],
)
def test_sentences_that_differ_in_a_few_words_are_one(sentences, one):
    assert as_one(sentences) == one
