"""Sentences about results follow from verdicts, wherever they stand."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from m2mkd.errors import InputError
from m2mkd.results.judge.results import Results
from m2mkd.results.judge.verdicts import Word
from m2mkd.results.report.contrasts import contrasts, rounded
from m2mkd.results.report.pages import BLOCK, fill, filled, sentences
from m2mkd.results.report.sentences import VERBS, answer_of
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from tests.conftest import ROOT
from tests.fabricated import finish
from tests.unit.results.boards import GAIN, GAINS, fabricate, gaining

PAGE = (
    "Before.\n<!-- sentences of scale small from results/small/tables/claims.json -->\nwritten before\n<!-- end of sentences -->\nAfter.\n"
)


def said(**records):
    return answer_of(contrasts({name: GAIN | changes for name, changes in records.items()}, "small"), "small")


def test_each_verdict_says_something_else():
    words = set(get_args(Word)) - {"smoke-pass", "smoke-fail"}
    assert set(VERBS) == words
    texts = {word: said(one={"verdict": word}).to_markdown() for word in words}
    assert len(set(texts.values())) == len(words)
    assert said(one={}).families == ["V-MoE: m2mKD is more accurate than end to end (IID +4.2 [+2.0, +6.4])."]
    assert said(one={"verdict": "inconclusive", "decided": False}).families == [
        "V-MoE: m2mKD is undecided against end to end (IID +4.2 [+2.0, +6.4])."
    ]
    below = {"verdict": "not reproduced", "estimate": -3.0, "low_at_once": -5.0, "high_at_once": -1.0}
    assert said(one=below).families == ["V-MoE: m2mKD is less accurate than end to end (IID -3.0 [-5.0, -1.0])."]
    assert "'of a new kind'" in said(one={"verdict": "of a new kind"}).families[0]


def test_one_sentence_a_family_and_a_verdict_once_in_it():
    found = said(
        iid={},
        ood={"metric": "ood_top1", "estimate": 0.01, "low_at_once": -0.04, "high_at_once": 0.06},
        kd={"comparison": "m2mkd - pure_kd", "verdict": "not reproduced"},
        labels={"comparison": "m2mkd - vmoe_base_labels_only/modules"},
        nac={
            "family": "nac",
            "comparison": "m2mkd - equal_compute_nac/end_to_end",
            "verdict": "inconclusive",
            "decided": False,
            "needs": "More.",
        },
        ablation={"comparison": "batch - batch_x_classes", "claim": "The batch is right."},
        elsewhere={"scale": "paper"},
    )
    assert found.families == [
        "V-MoE: m2mKD is more accurate than end to end (IID +4.2 [+2.0, +6.4], OOD +0.01 [-0.04, +0.1]) and labels only "
        "(IID +4.2 [+2.0, +6.4]); it is not shown to be more accurate than pure KD (IID +4.2 [+2.0, +6.4]).",
        "NAC: m2mKD is undecided against end to end with equal compute (IID +4.2 [+2.0, +6.4]).",
    ]
    assert found.tally.startswith("5 of 6 claims decided (4 reproduced, 1 not reproduced); 1 open (1 inconclusive)")
    assert found.undecided == ["NAC m2mKD - end to end with equal compute, IID: More."]
    assert found.others == ["The batch is right. (reproduced, +4.2 [+2.0, +6.4])"]
    assert "V-MoE or a NAC" in found.tested and "6 seeds each" in found.tested and "(IID), renditions of them (OOD)" in found.tested


def test_a_bound_is_never_rounded_to_0():
    assert [rounded(value) for value in (0.04, -0.04, 0.05, 1.26, 0.0)] == ["+0.04", "-0.04", "+0.1", "+1.3", "+0.0"]


def test_what_readers_have_to_know_is_said():
    found = said(
        one={"weak_seeds": {"vmoe_base/m2mkd": [[12, 0.724]]}, "unequal_labels": "m2mkd 100 % of digits; end_to_end 50 % of digits"},
        two={"verdict": "not run", "decided": False},
    )
    assert found.cautions == [
        "Weak: vmoe_base/m2mkd, seed 12 (72.4 % IID).",
        "Unequal labelled images (m2mkd 100 % of digits; end_to_end 50 % of digits): V-MoE m2mKD - end to end, IID.",
    ]
    assert "1 more not run here" in found.tally and found.tally.startswith("1 of 1 claims decided")


def test_without_a_verdict_nothing_is_said_to_hold():
    assert answer_of([], "small").to_markdown() == "Scale small judges no claim here."


@pytest.mark.parametrize(("gains", "verb"), [(GAINS, "is more accurate"), (tuple(-gain for gain in GAINS), "is less accurate")])
def test_other_verdicts_are_other_sentences_in_report_and_page(tmp_path, monkeypatch, gains, verb):
    monkeypatch.chdir(tmp_path)
    study = fabricate(tmp_path, gains=(0.02, -0.03, 0.01, 0.0, -0.01, 0.03), seeds=6)
    page = Path("page.md")
    page.write_text(PAGE)

    def made() -> list[str]:
        compile_tables(Results.read(study))
        write_report(Results.read(study))
        assert fill(page) and not fill(page)
        (family,) = answer_of(contrasts(json.loads(Path("results/small/tables/claims.json").read_text()), "small"), "small").families
        text = page.read_text()
        assert family in text and text.startswith("Before.\n") and text.endswith("-->\nAfter.\n") and "written before" not in text
        header = re.sub(r"<[^>]+>", "", Path("results/small/report.html").read_text().partition("<header")[2].partition("</header>")[0])
        assert family in header
        return [family, text, header]

    before = made()
    assert "is undecided against end to end" in before[0]
    finish(study, gaining(study, gains))
    after = made()
    assert verb in after[0] and not set(before) & set(after)


def test_a_table_comes_from_its_file(tmp_path):
    page, stored = tmp_path / "page.md", tmp_path / "table.md"
    stored.write_text("Caption.\n\n| a |\n|--:|\n| 1 |\n")
    page.write_text(f"Before.\n<!-- table {stored} -->\nold\n<!-- end of table -->\nAfter.\n")
    assert fill(page) and not fill(page)
    assert page.read_text() == f"Before.\n<!-- table {stored} -->\n\n{stored.read_text()}\n<!-- end of table -->\nAfter.\n"


@pytest.mark.parametrize(
    "page", sorted(path for path in (ROOT, *ROOT.glob("docs/**/")) for path in path.glob("*.md")), ids=lambda path: path.name
)
def test_pages_say_what_their_boards_say(page):
    text = page.read_text()
    assert filled(text, ROOT) == text, f"type 'm2mkd sentences {page.relative_to(ROOT)}'"
    if page.name == "README.md" and page.parent == ROOT:
        assert BLOCK.search(text)
        # Outside of the block no verdict is claimed.
        assert not re.search(r"more accurate|outperform|method works|reproduced\b", BLOCK.sub("", text))


def test_what_cannot_be_filled_is_one_line(tmp_path):
    page, board = tmp_path / "page.md", tmp_path / "claims.json"
    page.write_text("no block")
    with pytest.raises(InputError, match="no block to fill"):
        fill(page)
    page.write_text("<!-- table none.md -->\n<!-- end of table -->")
    with pytest.raises(InputError, match=r"none\.md: cannot be read"):
        fill(page)
    with pytest.raises(InputError, match=r"claims\.json: cannot be read"):
        sentences(board, "small")
    board.write_text('{"one": {"verdict": "reproduced", "seeds": 3}}')
    with pytest.raises(InputError, match="not a verdict board of this version"):
        sentences(board, "small")
