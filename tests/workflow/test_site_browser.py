"""The documentation site in a real browser, opened as files: what it asks for, whether its search works, and who can use it."""

import pytest

from tests.site import build_site
from tests.workflow.browsing import Opened, violations

PAGES = ("index", "tutorials/first-study", "how-to/ablations", "reference/cli", "explanation/method", "log")
SIZES = [(400, "light"), (1400, "dark"), (1400, "light")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize(("width", "scheme"), SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_and_usable(browser, site, page, width, scheme):
    opened = Opened(browser, site / f"{page}.html", width, scheme)
    assert opened.said == [] and [address for address in opened.asked if not address.startswith(site.as_uri())] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(opened.page) == {}
    opened.page.close()


@pytest.mark.parametrize("width", [400, 1400])
def test_the_search_works_without_a_server(browser, site, width):
    opened = Opened(browser, site / "index.html", width)
    if width < 1000:
        opened.page.locator(".md-header__button[for=__search]").click()
    field = opened.page.locator("input.md-search__input")
    field.click()
    field.press_sequentially("incubation")
    found = opened.page.locator(".md-search-result__item a")
    found.first.wait_for()
    assert found.count() > 5 and opened.said == []
    assert violations(opened.page) == {}
    found.first.click()
    opened.page.wait_for_url("**?h=incubation*")
    assert "incubation" in opened.page.locator("article").inner_text().lower()
    opened.page.close()


def test_a_wide_table_can_be_reached_with_the_keyboard(browser, site):
    opened = Opened(browser, site / "reference/fields.html", 400)
    table = opened.page.locator(".md-typeset__scrollwrap").first
    table.focus()
    before = table.evaluate("part => part.scrollLeft")
    opened.page.keyboard.press("ArrowRight")
    opened.page.wait_for_function("before => document.activeElement.scrollLeft > before", arg=before)
    opened.page.close()
