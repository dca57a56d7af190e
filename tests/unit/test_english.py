"""Docstrings, comments and messages avoid the patterns of docs/style.md, in every room that has had its pass."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

CLEAN = (
    "m2mkd/data",
    "m2mkd/detection",
    "m2mkd/evaluation",
    "m2mkd/models",
    "m2mkd/planning",
    "m2mkd/training",
    "m2mkd/upstream",
    *(f"m2mkd/{name}.py" for name in ("__init__", "__main__", "cores", "errors", "files", "locks", "marks", "outliers", "pickles")),
    *(f"m2mkd/{name}.py" for name in ("processes", "ranks", "restore", "seeds", "signals", "statistics", "surplus", "surroundings")),
    *(f"m2mkd/{name}.py" for name in ("torchvision_cpu", "workflows")),
)
"""Folders and files, Python or Markdown, that hold to the style page; a line more for each that joins them."""

FORBIDDEN = {
    "is not a": r"(?<!\bthere )\b(?:is|are|was|were) no\b(?! (?:longer|more|less|fewer)\b)",
    "instead of": r"\bin(?: the)? place of\b",
    "third-party": r"\bof others\b",
    "again": r"\banew\b",
    "resume, continue": r"\b(?:go|goes|going|went|gone) on\b",
    "next to": r"\bbeside\b",
    "is (of a place)": r"\b(?:lie|lies|stands?)\b",
}
"""Patterns to lose, each with what to write instead of it."""
OPENERS = frozenset({"How", "One", "That", "Those", "What", "When", "Where", "Whether", "Which", "Who", "Whose", "Why"})
"""First words of docstrings that lead with neither the noun nor the verb."""
QUOTED = re.compile(r"```.*?```|~~~.*?~~~|``.*?``|`[^`\n]*`", re.DOTALL)


def faults(text: str) -> list[str]:
    """Forbidden patterns in a text, each with what to write instead; code spans are quotations."""
    prose = " ".join(QUOTED.sub(" ", text).split())
    found = [(match[0], better) for better, pattern in FORBIDDEN.items() for match in re.finditer(pattern, prose, re.IGNORECASE)]
    return [f"'{words}': write '{better}'" for words, better in found]


def python_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a module, each with its line."""
    with path.open("rb") as file:
        yield from ((token.start[0], token.string) for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings of a module, also those of attributes and constants, each with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def faults_of(path: Path) -> list[str]:
    """Faults of a file, each with its line."""
    python = path.suffix == ".py"
    texts = python_texts(path) if python else [(1, path.read_text())]
    found = [f"{path}:{line}: {fault}" for line, text in texts for fault in faults(text)]
    if python:
        opened = ((line, text.split()[0].strip(",:")) for line, text in docstrings(path) if text.split())
        found += [f"{path}:{line}: docstring opens with '{word}'; use a noun or a verb" for line, word in opened if word in OPENERS]
    return found


def files(place: str) -> list[Path]:
    here = ROOT / place
    return [here] if here.is_file() else sorted(path for path in here.rglob("*") if path.suffix in {".py", ".md"})


@pytest.mark.parametrize("place", CLEAN)
def test_a_clean_room_stays_clean(place):
    assert files(place), f"{place} is missing or empty; correct CLEAN"
    assert not [fault for path in files(place) for fault in faults_of(path)]


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("f is no file", "is not a"),
        ("experts stand in the place of the MLP", "instead of"),
        ("checkpoints of others", "third-party"),
        ("compile\n    anew", "again"),
        ("The study goes\n    on.", "resume, continue"),
        ("the plan, beside the run", "next to"),
        ("Where the number stands", "is (of a place)"),
    ],
)
def test_the_patterns_of_the_style_page_are_found(text, better):
    assert any(fault.endswith(f"write '{better}'") for fault in faults(text))


def test_good_english_and_quotations_pass():
    assert not faults("If there is no file, the run no longer resumes; ``is no file`` and `anew` are quotations.\n```\nit lies beside\n```")


@pytest.mark.parametrize("opening", sorted(OPENERS))
def test_docstrings_lead_with_the_noun_or_the_verb(tmp_path, opening):
    path = tmp_path / "module.py"
    path.write_text(f'"""Module."""\n\n\ndef f():\n    """{opening} a run has finished."""\n\n\nLIMIT = 1\n"""Largest number."""\n')
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}:5: docstring opens with '{opening}'")
