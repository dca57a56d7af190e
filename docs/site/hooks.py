"""What the documentation site adds to the pages: those that are made from the source, and links that lead out of ``docs/``."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from python_api import python_page
from reference import cli_page, fields_page

ROOT = Path(__file__).parents[2]
BORROWED = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/conduct.md",
    "config/README.md": "reference/config.md",
    "benchmarks/README.md": "reference/benchmarks.md",
    "results/published/README.md": "reference/published.md",
}
"""Pages that lie elsewhere in the repository, and where they are in the site."""
MADE = {"reference/cli.md": cli_page, "reference/fields.md": fields_page, "reference/python.md": python_page}
"""Pages that are made from the source."""
HOME = {"README.md": "index.md"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(\w+) (run|slow|needs [^\n]+)$", re.MULTILINE)
EMPTY_HEAD = re.compile(r"<thead>\s*<tr>\s*(?:<th[^>]*></th>\s*)+</tr>\s*</thead>\s*")
EMPTY_HEADER = re.compile(r"<th([^>]*)></th>")
SECTION = re.compile(
    r'aria-labelledby="(__nav_[\d_]+)_label"(.*?<label class="md-nav__title" for="\1">\s*<span[^>]*></span>\s*)([^<]*?)(\s*</label>)',
    re.DOTALL,
)
LABELS = {"slow": "takes minutes"}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are not in ``docs/``."""
    for source, uri in BORROWED.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
    for uri, make in MADE.items():
        files.append(File.generated(config, uri, content=make()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: Any, files: Files) -> str:
    """Links as they lead in the site, and the marks of code blocks as titles."""
    uri = page.file.src_uri
    source = next((path for path, there in BORROWED.items() if there == uri), f"docs/{uri}")
    pieces = CODE.split(markdown)
    pieces[::2] = [LINK.sub(lambda link: _relinked(link, source, uri), piece) for piece in pieces[::2]]
    return FENCE.sub(_titled, "".join(pieces))


def _relinked(link: re.Match[str], source: str, uri: str) -> str:
    """A link of the file ``source``, from the page ``uri``; its text alone where the site has nothing there."""
    bang, text, address = link.groups()
    path, _, anchor = address.partition("#")
    if not path or re.match(r"[a-z]+:", address):
        return link[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if target.startswith("docs/"):
        target = target.removeprefix("docs/")
    elif target in BORROWED or target in HOME:
        target = (BORROWED | HOME)[target]
    elif (ROOT / target).exists():
        return text if text.startswith("`") else f"{text} (`{target}`)"
    else:
        return link[0]  # which mkdocs tells
    if (ROOT / "docs" / target).is_dir():
        target += "/README.md"
    there = posixpath.relpath(target, posixpath.dirname(uri) or ".")
    return f"{bang}[{text}]({there}{'#' + anchor if anchor else ''})"


def _titled(fence: re.Match[str]) -> str:
    language, mark = fence.groups()
    return f"```{language}" if mark == "run" else f'```{language} title="{LABELS.get(mark, mark)}"'


def on_page_content(html: str, **_: Any) -> str:
    """Tables whose header says nothing have none."""
    return EMPTY_HEADER.sub(r"<td\1></td>", EMPTY_HEAD.sub("", html))


def on_post_page(output: str, **_: Any) -> str:
    """Names for readers of screens, which the theme leaves out."""
    named = SECTION.sub(r'aria-label="\3"\2\3\4', output)
    return named.replace('data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"')
