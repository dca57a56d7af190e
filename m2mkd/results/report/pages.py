"""Sentences about results in hand-written pages: blocks that are generated from a stored board and not edited."""

import json
import re
from pathlib import Path

from m2mkd.config.strict import PARSERS_ERRORS
from m2mkd.errors import InputError
from m2mkd.files import write_text
from m2mkd.results.report.contrasts import contrasts
from m2mkd.results.report.sentences import answer_of

BLOCK = re.compile(r"(<!-- sentences of scale (?P<scale>[\w-]+) from (?P<board>\S+) -->\n).*?(<!-- end of sentences -->)", re.DOTALL)
"""Block of a page; `fill` writes the text between its two marker lines."""


def sentences(board: Path, scale: str) -> str:
    """Describe the board of a study, in Markdown.

    Parameters
    ----------
    board
        The ``claims.json`` of the study.
    scale
        The study's scale.

    Raises
    ------
    InputError
        If the board cannot be read.
    """
    try:
        records = json.loads(board.read_text())
        return answer_of(contrasts(records, scale), scale).to_markdown()
    except OSError as error:
        raise InputError(f"{board}: cannot be read ({error.strerror}); 'm2mkd compile' writes it") from None
    except PARSERS_ERRORS as error:
        raise InputError(
            f"{board}: not a verdict board of this version ({type(error).__name__}: {error}); 'm2mkd compile' writes it"
        ) from None


def filled(text: str, root: Path = Path()) -> str:
    """Text of a page with its blocks generated again; boards are named relative to ``root``."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{sentences(root / found['board'], found['scale'])}\n\n{found[4]}", text)


def fill(page: Path) -> bool:
    """Generate the sentences of a page again; return true if that changed it.

    Raises
    ------
    InputError
        If the page cannot be read, has no block, or names a board that cannot be read.
    """
    try:
        text = page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{page}: cannot be read ({error}); name a page in Markdown") from None
    if not BLOCK.search(text):
        raise InputError(
            f"{page}: no sentences to fill; write '<!-- sentences of scale SCALE from BOARD -->' and '<!-- end of sentences -->' where "
            "they belong"
        )
    new = filled(text)
    if new != text:
        write_text(page, new)
    return new != text
