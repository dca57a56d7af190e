"""What tests of pages in a browser look at."""

import importlib
from pathlib import Path
from typing import Any

VIEWS = [(400, "light"), (1000, "light"), (1400, "dark")]
"""Widths in pixels, and colour schemes."""
BEYOND = """width => [...document.querySelectorAll("body *")]
  .filter(item => !item.closest(".scroll") && !item.closest("svg") && item.getBoundingClientRect().right > width + 0.5)
  .map(item => item.outerHTML.slice(0, 120))"""
EMPTY_DRAWINGS = """() => [...document.querySelectorAll("figure:has(.plot)")].filter(figure => {
  const drawing = figure.querySelector("svg"), box = drawing && drawing.getBoundingClientRect();
  const series = new Set(JSON.parse(figure.querySelector("script").textContent).map(mark => mark[3])).size;
  return !drawing || box.width < 200 || box.height < 60 || drawing.querySelectorAll("[style*='--series-']").length < Math.max(1, series);
}).map(figure => figure.id)"""
"""Figures that are too small to be seen, or have fewer coloured strokes than series to read out."""
SILENT = """() => [...document.querySelectorAll("figure:has(.plot)")]
  .filter(figure => figure.querySelector(".plot").getAttribute("role") !== "group").map(figure => figure.id)"""
"""Figures that do not read out what is pointed at."""
UNFOLD = "() => document.querySelectorAll('details').forEach(part => { part.open = true; })"


class Opened:
    """A page in one view, with what it said and what it asked for."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str = "light", height: int = 900):
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda wanted: self.asked.append(wanted.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("networkidle")

    def beyond_the_edge(self) -> list[str]:
        """What the page would have to scroll sideways for."""
        return self.page.evaluate(BEYOND, self.page.viewport_size["width"])


def violations(page: Any) -> dict[str, str]:
    """What axe finds wrong, by rule; checks that it looked at something."""
    axe = importlib.import_module("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page)
    assert len(found.response["passes"] + found.response["violations"]) > 5
    return {violation["id"]: str(violation["nodes"])[:400] for violation in found.response["violations"]}
