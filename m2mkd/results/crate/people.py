"""Authors of the suite, and of the work that it reproduces, from ``CITATION.cff``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2mkd.config import load
from m2mkd.errors import InputError

CITATION = Path("CITATION.cff")


@dataclass(frozen=True)
class Author:
    """A person, or a group under one name."""

    name: str
    person: bool
    orcid: str | None = None
    """Identifier as an address."""


@dataclass(frozen=True)
class Citation:
    """Content of a citation file."""

    title: str
    authors: tuple[Author, ...]
    licence: str
    """SPDX identifier."""
    message: str
    keywords: tuple[str, ...]
    paper: dict[str, Any]
    """The paper that is reproduced: title, year, url."""
    paper_authors: tuple[Author, ...]


def read_citation() -> Citation:
    """The project's ``CITATION.cff``.

    Raises
    ------
    InputError
        If it, or one of the fields needed here, is missing.
    """
    content = load.read_yaml(CITATION)
    try:
        paper = content["preferred-citation"]
        return Citation(
            title=content["title"],
            authors=_authors(content["authors"]),
            licence=content["license"],
            message=content["message"],
            keywords=tuple(content.get("keywords", ())),
            paper={"title": paper["title"], "year": paper["year"], "url": paper["url"]},
            paper_authors=_authors(paper["authors"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{CITATION}: {error} is missing; add it") from None


def _authors(entries: list[dict[str, str]]) -> tuple[Author, ...]:
    return tuple(
        Author(entry["name"], person=False)
        if "name" in entry
        else Author(f"{entry['given-names']} {entry['family-names']}", person=True, orcid=entry.get("orcid"))
        for entry in entries
    )
