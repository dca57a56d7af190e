"""The report in a real browser: what is drawn, what it asks for, and whether people can use it on a phone and with a keyboard."""

import shutil
from pathlib import Path

import pytest

from m2mkd.results.judge.board import verdict_board
from m2mkd.results.judge.results import Results
from m2mkd.results.report.contrasts import NOT_RUN
from m2mkd.results.report.write import write_report
from tests.fabricated import finish, plan
from tests.workflow.browsing import EMPTY_DRAWINGS, UNFOLD, VIEWS, Opened, violations

FIRST = ("#answer h1", "#answer .tested", "#answer .families", "#answer .tally", "#figure-claims svg")
"""What the first screen has to show."""
CUT = """() => [...document.querySelectorAll(".scroll")].filter(part => part.checkVisibility() && part.scrollWidth > part.clientWidth)
  .map(part => part.getAttribute("aria-label"))"""
"""Tables of which paper shows a part."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of the small study with one run missing, so that it has verdicts of several kinds, and its board."""
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "small", seeds=6)
        better = {run_id for row in study.rows if row.variant == "m2mkd" for run_id in row.measured}
        finish(study, lambda run, seed: 0.9 + 0.002 * seed + (0.03 + 0.001 * (seed % 3) if run.id in better else 0.0))
        (row,) = [row for row in study.rows if row.experiment == "nac_tiny_imagenet_scale_free" and row.variant == "end_to_end"]
        shutil.rmtree(study.folder(row.measured[1]))
        results = Results.read(study, partial=True)
        write_report(results)
        return root / "results/small/report.html", verdict_board(results)


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def view(request, browser, report):
    """The page in one view, with what it said and what it asked for."""
    opened = Opened(browser, report[0], *request.param)
    yield opened
    opened.page.close()


@pytest.fixture
def page(view):
    """The page in one view."""
    return view.page


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (400, 800)])
def test_the_first_screen_answers(browser, report, width, height):
    opened = Opened(browser, report[0], width, height=height)
    for part in FIRST:
        box = opened.page.locator(part).bounding_box()
        assert box["height"] > 10 and box["y"] >= 0 and box["y"] + box["height"] <= height, (part, box)
    families = opened.page.locator(FIRST[2]).inner_text()
    assert "V-MoE: m2mKD is more accurate" in families and "NAC: m2mKD is undecided against" in families
    texts = opened.page.locator("#figure-claims svg text").all_text_contents()
    assert "m2mKD - end to end, IID" in texts and "difference in top-1, points; 6 seeds, 95 % intervals" in texts
    opened.page.close()


def test_it_says_nothing_and_asks_for_nothing_but_itself(view, report):
    assert view.said == []
    assert view.asked == [report[0].as_uri()]


def test_every_verdict_is_seen(page, report):
    board = {finding.claim.claim: finding for finding in report[1] if finding.claim.scale == "small" and finding.comparisons}
    lines = page.locator("#table-claims tbody tr")
    assert lines.count() == len(board) > 1 and len({finding.verdict.word for finding in board.values()}) > 1
    for line in lines.all():
        finding = board.pop(line.locator("th").inner_text())
        assert line.locator(".verdict").inner_text() == finding.verdict.word != NOT_RUN
        assert line.locator(".verdict").is_visible() and finding.verdict.why in line.inner_text()


def test_claims_of_the_paper_are_folded_without_a_verdict(page, report):
    paper = page.locator("section", has=page.locator("#paper"))
    assert "judges nothing about the paper" in paper.inner_text() and "60.76%" not in paper.inner_text()
    page.goto(f"{report[0].as_uri()}#claim-nac_authors_erdos_renyi_ood")  # what leads to a claim opens what it is folded in
    page.wait_for_function("document.querySelector('#claim-nac_authors_erdos_renyi_ood').closest('details').open")
    assert "60.76%" in paper.inner_text() and "smoke" not in paper.inner_text() and "GPU-hours" in paper.inner_text()
    page.goto(report[0].as_uri())


def test_every_table_has_lines_that_are_seen(page):
    seen = {"claims", "teacher", "vmoe", "nac", "labelled"}
    assert {table.get_attribute("id") for table in page.locator("table").all() if table.is_visible()} == {f"table-{name}" for name in seen}
    page.evaluate(UNFOLD)
    tables = page.locator("table")
    names = [table.get_attribute("id") for table in tables.all()]
    folded = {"hybrids", "ood", "renditions", "published", "cost", "data", "models", "training", "switches", "environment", "commands"}
    assert {f"table-{name}" for name in seen | folded} <= set(names) and len(set(names)) == len(names)
    assert all(table.is_visible() and table.locator("tbody tr").count() for table in tables.all())
    page.reload()


def test_every_figure_is_drawn(page):
    students = 4  # V-MoE, its labels-only and equal-compute arms, NAC
    # claims, bars IID and OOD, renditions, the teacher, modules of three students, and each student's training
    assert page.locator("figure").count() == 1 + 2 + 1 + 1 + 3 + students
    assert page.evaluate(EMPTY_DRAWINGS) == []


def test_the_page_does_not_scroll_sideways(view):
    assert view.beyond_the_edge() == []
    view.page.evaluate(UNFOLD)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= view.page.viewport_size["width"]
    assert view.beyond_the_edge() == []
    view.page.reload()


def test_links_lead_to_something_that_is_there(page):
    targets = {link.get_attribute("href") for link in page.locator("a[href^='#']").all()}
    judged = page.locator("#table-claims tbody tr").count()
    behind = {f"#{heading.get_attribute('id')}" for heading in page.locator("#evidence ~ details h3").all()}
    assert len({target for target in targets if target.startswith("#claim-")}) == judged and behind and behind <= targets
    missing = page.evaluate("targets => targets.filter(target => !document.getElementById(target.slice(1)))", sorted(targets))
    assert missing == []


def test_the_keyboard_reaches_links_and_wide_tables(page):
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + ' ' + (document.activeElement.getAttribute('aria-label') || '')"))
    assert {"A ", "DIV Table: claims"} <= reached


def test_figures_read_out_what_is_pointed_at(page):
    figure = page.locator("#figure-curves-vmoe_base-corrected")
    plot, reading = figure.locator(".plot"), figure.locator(".reading")
    assert reading.inner_text() == ""
    plot.scroll_into_view_if_needed()
    (x, y, text, series) = page.evaluate("figure => JSON.parse(figure.querySelector('script').textContent)[1]", figure.element_handle())
    box = plot.locator("svg").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    assert reading.inner_text() == text == "end to end, epoch 2, cross-entropy: 1.5 ± 0"
    ring = figure.locator(".ring").bounding_box()
    assert abs(ring["x"] + ring["width"] / 2 - box["x"] - x * box["width"]) < 1.5
    assert abs(ring["y"] + ring["height"] / 2 - box["y"] - y * box["height"]) < 1.5
    assert figure.locator(".quiet").count() and figure.locator(f".quiet[id*='-series-{series}-']").count() == 0
    page.mouse.move(0, 0)
    assert reading.inner_text() == "" and figure.locator(".ring, .quiet").count() == 0


def test_figures_can_be_read_with_the_keyboard(page):
    figure = page.locator("#figure-curves-vmoe_base-corrected")
    figure.locator(".plot").focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "End", "ArrowRight"):
        page.keyboard.press(key)
        said.append(figure.locator(".reading").inner_text())
    assert [words.rpartition(":")[0] for words in said] == [
        "end to end, epoch 1, cross-entropy",
        "end to end, epoch 2, cross-entropy",
        "pure KD, epoch 2, cross-entropy",
        "m2mKD, epoch 3, validation top-1 %",
        "m2mKD, epoch 3, validation top-1 %",
    ]
    page.keyboard.press("Escape")
    assert figure.locator(".reading").inner_text() == ""


def test_printed_it_has_every_figure_and_no_trace_of_the_pointer(page):
    plot = page.locator("#figure-bars-iid .plot")
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.emulate_media(media="print")
    try:
        assert page.evaluate(EMPTY_DRAWINGS) == []
        assert not page.locator("#figure-bars-iid .reading").is_visible() and not page.locator("#figure-bars-iid .ring").is_visible()
    finally:
        page.emulate_media(media="screen")
        page.keyboard.press("Escape")


def test_printed_no_word_is_broken_into_letters(browser, report):
    opened = Opened(browser, report[0], 688)  # as wide as A4 without its margins
    opened.page.emulate_media(media="print")
    narrow = """() => [...document.querySelectorAll("table td, table th")].filter(cell => cell.checkVisibility())
      .filter(cell => cell.innerText.length > 12 && cell.getBoundingClientRect().width < 40).map(cell => cell.innerText)"""
    assert opened.page.evaluate(narrow) == []
    assert opened.beyond_the_edge() == [] and opened.page.evaluate(CUT) == []
    said, drawn = (opened.page.locator(part).bounding_box() for part in ("#answer .said", "#figure-claims"))
    assert drawn["x"] > said["x"] + said["width"]  # beside each other
    assert opened.page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n") <= 14
    opened.page.close()


def test_axe_finds_nothing(page):
    assert violations(page) == {}
    page.evaluate(UNFOLD)
    assert violations(page) == {}
    page.reload()


def test_axe_would_find_something(browser, tmp_path: Path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><p style='color: #aaa; background: #fff'>faint</p></body></html>")
    opened = Opened(browser, bad, 400)
    assert {"color-contrast", "html-has-lang"} <= set(violations(opened.page))
    opened.page.close()
