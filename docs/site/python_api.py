"""Reference page of the interface from Python, from the docstrings of the names in ``m2mkd.__all__``."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import m2mkd

HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
"""Heading of a section of a numpydoc docstring."""
ITEM = re.compile(r"^(?! )(.+)\n((?:(?:    .*)?\n?)*)", re.MULTILINE)
"""Item of a section: its names or type, then its indented text."""
ROLE = re.compile(r":\w+:`~?([^`]+)`")


def python_page() -> str:
    """Every stable name with its signature, parameters and examples."""
    parts = [
        "# From Python",
        "Made from the docstrings when this site is built; the examples are run by a test. A guide with whole programs: "
        "[use the suite from Python](../how-to/python.md).",
        "```python\nimport m2mkd\n```",
        _prose((m2mkd.__doc__ or "").partition("\n")[2]),
    ]
    for name in m2mkd.__all__:
        parts += _described(f"m2mkd.{name}", getattr(m2mkd, name), 2)
    return "\n\n".join(part for part in parts if part) + "\n"


def _described(name: str, thing: Any, level: int) -> Iterator[str]:
    yield f"{'#' * level} `{name}` {{ #{name.removeprefix('m2mkd.').lower()} }}"
    if isinstance(thing, property):
        yield _prose(inspect.getdoc(thing) or "")
        return
    if not (isinstance(thing, type) and issubclass(thing, BaseException)):
        yield f"```python\n{name}{_signature(thing)}\n```"
    summary, sections = _sections(inspect.getdoc(thing) or "")
    yield _prose(summary)
    for title, text in sections:
        yield f"**{title}**"
        yield from _section(title, text)
    if isinstance(thing, type) and not issubclass(thing, BaseException):
        for member, own in vars(thing).items():
            if (not member.startswith("_") or member == "__call__") and (callable(own) or isinstance(own, property)):
                yield from _described(f"{name}.{member}", own, level + 1)


def _signature(thing: Any) -> str:
    signature = inspect.signature(thing)
    shown = [one for one in signature.parameters.values() if one.name != "self"]
    text = str(signature.replace(parameters=shown))
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text.replace("<factory>", "..."))


def _sections(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Text before the first section, and each section by its heading."""
    parts = HEADING.split(text)
    return parts[0], list(zip(parts[1::2], parts[2::2], strict=True))


def _section(title: str, text: str) -> Iterator[str]:
    text = text.strip("\n")
    if title == "Examples":
        yield f"```pycon\n{text}\n```"
        return
    for item in ITEM.finditer(text + "\n"):
        yield f"`{item[1]}`\n:   {_prose(inspect.cleandoc(item[2]))}"


def _prose(text: str) -> str:
    """Paragraphs in Markdown: code as there, and names without the roles of Sphinx."""
    text = ROLE.sub(r"`\1`", text).replace("``", "`")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
