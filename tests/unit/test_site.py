"""The documentation site builds without a warning, its links lead somewhere, and its pages ask for nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from tests.conftest import ROOT
from tests.site import SHELLS, blocks, build_site

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src", "object": "data"}
"""Elements that make a browser ask for something, by the attribute that says for what; a link does by its kind."""
TAUGHT = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/tutorials/*.md"))]


class Parsed(HTMLParser):
    """Anchors, links and loaded addresses of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = {"", "__skip"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADS.get(tag, "")):
            self.loads.append(given[LOADS[tag]])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given["href"])

    def error(self, message):
        raise AssertionError(message)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path in the site, except the one for what is not found, whose links are from the root of a server."""
    return {path.resolve(): Parsed(path) for path in site.rglob("*.html") if path.name != "404.html"}


def broken(pages: dict[Path, Parsed]) -> list[tuple[str, str]]:
    """Links and loads to what is not in the site, with the page."""
    found = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target, anchor = urldefrag(link)
            there = (path.parent / unquote(target).partition("?")[0]).resolve() if target else path
            if not there.is_file() or (there in pages and unquote(anchor) not in pages[there].anchors):
                found.append((path.name, link))
    return found


def foreign(pages: dict[Path, Parsed]) -> set[str]:
    """Addresses of other hosts that a page loads by itself."""
    return {address for page in pages.values() for address in page.loads if urlsplit(address).netloc}


def test_links_and_anchors_hold(pages):
    assert len(pages) > 35 and sum(len(page.links) for page in pages.values()) > 1000
    assert broken(pages) == []


def test_no_page_asks_another_host(pages, site):
    assert sum(len(page.loads) for page in pages.values()) > len(pages)
    assert foreign(pages) == set()
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", text) for text in styles)


def test_a_broken_link_and_a_foreign_script_are_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<h1 id="a">A</h1><a href="#a">1</a><a href="#b">2</a><a href="no.html">3</a><script src="https://example.org/x.js"></script>'
    )
    parsed = {page.resolve(): Parsed(page)}
    assert broken(parsed) == [("page.html", "#b"), ("page.html", "no.html")] and foreign(parsed) == {"https://example.org/x.js"}


def test_the_search_has_every_page(site):
    index = (site / "search/search_index.js").read_text()
    assert index.startswith("var __index = {")
    assert all(f'"{path.relative_to(site).as_posix()}"' in index for path in site.rglob("*.html") if path.name != "404.html")


def test_every_command_and_field_is_in_the_reference(site):
    commands = (site / "reference/cli.html").read_text()
    assert all(
        f'id="m2mkd-{name}"' in commands for name in ("run", "plan", "claims", "data-prepare", "crate-check", "track-sync", "runs-gc")
    )
    assert "M2MKD_DEVICE" in commands
    fields = (site / "reference/fields.html").read_text()
    assert "Global batch size of one update" in fields and all(f'id="recipes-{name}"' in fields for name in ("recipe", "augmentation"))


@pytest.mark.parametrize("page", TAUGHT)
def test_every_block_of_commands_says_whether_it_is_run(page):
    for block in blocks(ROOT / page):
        if block.language in SHELLS:
            assert re.fullmatch(r"run|slow|needs [\w ,-]+", block.mark), (
                f"{page}: mark this block 'run', 'slow' or 'needs ...':\n{block.text}"
            )
