"""The report in a real browser: what is drawn, what it asks for, and whether people can use it on a phone and with a keyboard."""

import importlib
import shutil
from pathlib import Path

import pytest

from m2mkd.results.judge.board import verdict_board
from m2mkd.results.judge.results import Results
from m2mkd.results.report.write import write_report
from tests.fabricated import by_seed, finish, plan

EXPERIMENTS = ["teacher_deit_large", "vmoe_base/end_to_end", "vmoe_base/m2mkd", "nac_tiny_imagenet_scale_free", "fewshot_cifar100_vmoe"]
VIEWS = [(400, "light"), (1400, "light"), (1400, "dark")]
BEYOND = """width => [...document.querySelectorAll("body *")]
  .filter(item => !item.closest(".scroll") && !item.closest("svg") && item.getBoundingClientRect().right > width)
  .map(item => item.outerHTML.slice(0, 120))"""
EMPTY_DRAWINGS = """() => [...document.querySelectorAll("figure")].filter(figure => {
  const drawing = figure.querySelector("svg"), box = drawing && drawing.getBoundingClientRect();
  return !drawing || box.width < 200 || box.height < 60 || drawing.querySelectorAll("path").length < 20;
}).map(figure => figure.id)"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report at scale small in which one run is missing, so that it has every kind of verdict that this scale knows, and its board."""
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "small", EXPERIMENTS)
        better = {run_id for row in study.rows if row.variant == "m2mkd" for run_id in row.measured}
        finish(study, lambda run, seed: by_seed(run, seed) + (0.02 + 0.001 * seed if run.id in better else 0.0))
        (row,) = [row for row in study.rows if row.experiment.startswith("nac") and row.variant == "end_to_end"]
        shutil.rmtree(study.folder(row.measured[1]))
        write_report(Results.read(study, partial=True))
        return root / "results/small/report.html", verdict_board(Results.read(study, partial=True))


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def page(request, browser, report):
    """The page in one view, with what it said and what it asked for."""
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda wanted: asked.append(wanted.url))
    opened.goto(report[0].as_uri())
    opened.wait_for_load_state("networkidle")
    yield opened, said, asked
    opened.close()


def test_it_says_nothing_and_asks_for_nothing_but_itself(page, report):
    _, said, asked = page
    assert said == []
    assert asked == [report[0].as_uri()]


def test_every_verdict_is_seen(page, report):
    opened, board = page[0], report[1]
    assert {finding.verdict.word for finding in board} == {"reproduced", "inconclusive", "smoke-pass", "smoke-fail", "not run"}
    lines = opened.locator("#table-claims tbody tr")
    assert lines.count() == len(board)
    for place, finding in enumerate(board):
        line = lines.nth(place)
        assert line.locator("th").inner_text() == finding.claim.id
        assert line.locator(".verdict").inner_text() == finding.verdict.word
        assert line.locator(".verdict").is_visible() and finding.verdict.why in line.inner_text()
        assert finding.verdict.word in opened.locator(f"#claim-{finding.claim.id}").inner_text()


def test_every_table_has_lines_that_are_seen(page):
    tables = page[0].locator("table")
    names = [table.get_attribute("id") for table in tables.all()]
    expected = {
        "claims",
        "teacher",
        "hybrids",
        "vmoe",
        "nac",
        "ood",
        "renditions",
        "fewshot",
        "cost",
        "data",
        "models",
        "training",
        "switches",
        "commands",
    }
    assert {f"table-{name}" for name in expected} <= set(names) and len(set(names)) == len(names)
    assert all(table.is_visible() and table.locator("tbody tr").count() for table in tables.all())


def test_every_figure_is_drawn(page):
    opened = page[0]
    # bars IID and OOD, renditions, the teacher, modules of both families, training of both students
    assert opened.locator("figure").count() == 8
    assert opened.evaluate(EMPTY_DRAWINGS) == []


def test_the_page_does_not_scroll_sideways(page):
    opened = page[0]
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.viewport_size["width"]
    assert opened.evaluate(BEYOND, opened.viewport_size["width"]) == []


def test_links_lead_to_something_that_is_there(page):
    opened = page[0]
    targets = {link.get_attribute("href") for link in opened.locator("a[href^='#']").all()}
    assert len(targets) > 30
    missing = opened.evaluate("targets => targets.filter(target => !document.getElementById(target.slice(1)))", sorted(targets))
    assert missing == []


def test_the_keyboard_reaches_links_and_wide_tables(page):
    opened = page[0]
    opened.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(25):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("document.activeElement.tagName + ' ' + (document.activeElement.getAttribute('aria-label') || '')"))
    assert {"A ", "DIV Table: claims"} <= reached


def test_figures_read_out_what_is_pointed_at(page):
    opened = page[0]
    figure = opened.locator("#figure-curves-vmoe_base-corrected")
    plot, reading = figure.locator(".plot"), figure.locator(".reading")
    assert reading.inner_text() == ""
    plot.scroll_into_view_if_needed()
    (x, y, text, series) = opened.evaluate("figure => JSON.parse(figure.querySelector('script').textContent)[1]", figure.element_handle())
    box = plot.locator("svg").bounding_box()
    opened.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    assert reading.inner_text() == text == "end to end, epoch 2, training loss: 1.5 ± 0"
    ring = figure.locator(".ring").bounding_box()
    assert abs(ring["x"] + ring["width"] / 2 - box["x"] - x * box["width"]) < 1.5
    assert abs(ring["y"] + ring["height"] / 2 - box["y"] - y * box["height"]) < 1.5
    assert figure.locator(".quiet").count() and figure.locator(f".quiet[id*='-series-{series}-']").count() == 0
    opened.mouse.move(0, 0)
    assert reading.inner_text() == "" and figure.locator(".ring, .quiet").count() == 0


def test_figures_can_be_read_with_the_keyboard(page):
    opened = page[0]
    figure = opened.locator("#figure-curves-vmoe_base-corrected")
    figure.locator(".plot").focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "End", "ArrowRight"):
        opened.keyboard.press(key)
        said.append(figure.locator(".reading").inner_text())
    assert [words.rpartition(":")[0] for words in said] == [
        "end to end, epoch 1, training loss",
        "end to end, epoch 2, training loss",
        "m2mKD, epoch 2, training loss",
        "m2mKD, epoch 3, validation top-1 %",
        "m2mKD, epoch 3, validation top-1 %",
    ]
    opened.keyboard.press("Escape")
    assert figure.locator(".reading").inner_text() == ""


def test_printed_it_has_every_figure_and_no_trace_of_the_pointer(page):
    opened = page[0]
    plot = opened.locator("#figure-bars-iid .plot")
    plot.focus()
    opened.keyboard.press("ArrowRight")
    opened.emulate_media(media="print")
    try:
        assert opened.evaluate(EMPTY_DRAWINGS) == []
        assert not opened.locator("#figure-bars-iid .reading").is_visible() and not opened.locator("#figure-bars-iid .ring").is_visible()
    finally:
        opened.emulate_media(media="screen")
        opened.keyboard.press("Escape")


def test_axe_finds_nothing(page):
    axe = importlib.import_module("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page[0])
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 20


def test_axe_would_find_something(browser, tmp_path: Path):
    axe = importlib.import_module("axe_playwright_python.sync_playwright")
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><p style='color: #aaa; background: #fff'>faint</p></body></html>")
    opened = browser.new_page()
    opened.goto(bad.as_uri())
    found = {violation["id"] for violation in axe.Axe().run(opened).response["violations"]}
    opened.close()
    assert {"color-contrast", "html-has-lang"} <= found
