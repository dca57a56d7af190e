"""Figures as parts of a page: inline SVG with text as text, which uses the page's colours and refers to nothing outside it."""

import html
import io
import json
import re
from typing import BinaryIO

from matplotlib import rc_context
from matplotlib.figure import Figure

from m2mkd.results.report.plots import GROUND, INK, MUTED, RULE, SERIES, STYLE, Drawing

VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", GROUND: "--ground"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES)
}
"""Variable of the page's style sheet for each colour of the figures."""


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as an ``svg`` element.

    Parameters
    ----------
    figure
        Figure to draw.
    name
        Prefix of every id, so that figures on one page do not share ids.
    description
        Description for readers who do not see it.
    """
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    label = html.escape(description, quote=True)
    # The size comes from the view box; a figure is as wide as the page allows.
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def marks_json(figure: Figure) -> str:
    """Marks of a drawn figure, as JSON that can be embedded in a page.

    Returns
    -------
    str
        A list of ``[x, y, text, series]``: positions as shares of width and height from the upper left corner, in the order of drawing. It
        contains no ``<``.
    """
    found = []
    for one in figure.marks if isinstance(figure, Drawing) else ():
        x, y = figure.transFigure.inverted().transform(one.axes.transData.transform((one.x, one.y)))
        found.append([round(float(x), 4), round(1 - float(y), 4), one.text, one.series])
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def write_png(figure: Figure, file: BinaryIO) -> None:
    """Write a figure as a picture on white."""
    write_figure(figure, "png", file)


def write_figure(figure: Figure, form: str, file: BinaryIO) -> None:
    """Write a figure on white as ``png`` or ``svg``, the same bytes each time."""
    unsaid = {"png": ("Software",), "svg": ("Creator", "Date", "Format", "Type")}[form]
    with rc_context(STYLE):
        figure.savefig(file, format=form, dpi=200, facecolor="white", metadata=dict.fromkeys(unsaid))
