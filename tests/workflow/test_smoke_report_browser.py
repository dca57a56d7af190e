"""The report of runs that were really computed, with ablations and images of the data sets, in a real browser."""

import pytest

from tests.workflow.browsing import EMPTY_DRAWINGS, SILENT, UNFOLD, VIEWS, Opened, violations
from tests.workflow.studies import add_ablation


@pytest.fixture(scope="module")
def report(finished, copied_once):
    """The report of the study with its ablations."""
    project = copied_once(finished)
    add_ablation(project)
    project.snakemake("ablations")
    return project.root / "results/smoke/ablations/report.html"


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def view(request, browser, report):
    """It in one view."""
    opened = Opened(browser, report, *request.param)
    yield opened
    opened.page.close()


def test_its_script_reaches_every_drawing(view, report):
    assert view.said == []
    assert view.asked[:1] == [report.as_uri()] and all(address.startswith("data:") for address in view.asked[1:])
    names = {figure.get_attribute("id") for figure in view.page.locator("figure").all()}
    pictures = {name for name in names if name.startswith("data-")}
    assert {"figure-bars-iid", "figure-ablations", "figure-parts-vmoe_base-corrected"} <= names
    assert {"data-digits@32", "data-digits-r@32", "data-digits@16"} <= pictures
    assert view.page.evaluate(SILENT) == [] and view.page.evaluate(EMPTY_DRAWINGS) == []


def test_modules_and_parts_of_losses_have_their_curves(view):
    texts = {
        name: view.page.locator(f"#figure-{name} svg text").all_text_contents()
        for name in (
            "curves-teacher_deit_large-corrected",
            "modules-vmoe_base-m2mkd-corrected",
            "curves-nac_tiny_imagenet_scale_free-corrected",
        )
    }
    teacher, modules, nac = texts.values()
    assert {"each module, incubated", "assembled teacher", "cross-entropy"} <= set(teacher) and "regulariser" not in teacher
    assert {"cross-entropy", "divergence", "module 3"} <= set(modules)
    assert {"cross-entropy", "regulariser", "validation top-1 %"} <= set(nac)


def test_unequal_arms_are_said(view):
    """At scale smoke students see fewer images than modules do."""
    assert "unequal" in view.page.locator("#table-labelled").inner_text()


def test_pictures_are_seen_when_unfolded(view):
    view.page.evaluate(UNFOLD)
    sizes = view.page.evaluate("() => [...document.images].map(image => [image.naturalWidth, image.getBoundingClientRect().width])")
    assert len(sizes) >= 3 and all(natural > 100 and shown > 100 for natural, shown in sizes)
    assert view.beyond_the_edge() == []


def test_axe_finds_nothing_folded_or_not(view):
    view.page.reload()
    assert violations(view.page) == {}
    view.page.evaluate(UNFOLD)
    assert violations(view.page) == {}
