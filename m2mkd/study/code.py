"""The code that a phase uses: digests of the modules that its training file imports, so that no change goes unnoticed."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from m2mkd.files import read_note, write_json
from m2mkd.sources import tree_digest
from m2mkd.study.keys import digest, is_sealed, sealed
from m2mkd.study.phase import PHASES

SOURCES_HERE = Path(__file__).parents[1]
"""The sources of this suite."""
NOTE = Path("results/.code.json")
"""Cache of the digests, because reading all sources takes longer than the start of a short job."""
WATCHING = ("m2mkd.containers", "m2mkd.planning", "m2mkd.tracking")
"""Rooms that observe or evaluate results, and compute none of them."""

Code = Mapping[str, str]
"""Digest of each module, by its dotted name."""


def code_of(phase: str, package: Path = SOURCES_HERE) -> Code:
    """Digests of the modules of this package that a phase's training file imports, directly or through others.

    Parameters
    ----------
    phase
        Name of the phase.
    package
        Folder of the sources.

    Returns
    -------
    Mapping
        16 hexadecimal digits for each module. Comments, docstrings and layout do not count.

    Raises
    ------
    SyntaxError
        If a source is not valid Python.
    """
    return _every_code(package)[phase]


def changed_modules(recorded: Code, now: Code) -> tuple[str, ...]:
    """Modules that differ between the code that a run recorded and another, in alphabetical order."""
    return tuple(sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name)))


@cache
def _every_code(package: Path) -> dict[str, Code]:
    """Results of `code_of`, by phase."""
    sources = dict(_sources(package))
    state = digest([[name, hashlib.sha256(text).hexdigest()] for name, text in sources.items()])
    note = read_note(NOTE) if package == SOURCES_HERE else None
    if isinstance(note, dict) and is_sealed(note) and note.get("sources") == state and note.get("phases", {}).keys() == PHASES.keys():
        return note["phases"]
    modules = _Modules(sources)
    found: dict[str, Code] = {phase: modules.behind(f"{package.name}.training.phases.{phase}") for phase in PHASES}
    if package == SOURCES_HERE:
        with suppress(OSError):  # without write access the sources are read again
            write_json(NOTE, sealed({"sources": state, "phases": found}))
    return found


def _sources(package: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(package.rglob("*.py")):
        if path.is_file():
            name = ".".join((package.name, *path.relative_to(package).with_suffix("").parts))
            yield name.removesuffix(".__init__"), path.read_bytes()


class _Modules:
    """Modules by their dotted names; each is parsed when it is first asked for."""

    def __init__(self, sources: Mapping[str, bytes]):
        self.sources, self.known = sources, dict[str, tuple[str, set[str]]]()

    def behind(self, module: str) -> dict[str, str]:
        """Digests by name of a module and all that it imports."""
        found: dict[str, str] = {}
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name in self.sources and name not in found and not name.startswith(WATCHING):
                found[name], imported = self._read(name)
                waiting += [*imported, name.rpartition(".")[0]]  # a package is imported before its modules
        return dict(sorted(found.items()))

    def _read(self, name: str) -> tuple[str, set[str]]:
        """Digest of a module, and the names that it imports."""
        if name not in self.known:
            tree = ast.parse(self.sources[name])
            self.known[name] = tree_digest(tree), set(_imported(tree))
        return self.known[name]


def _imported(node: ast.AST) -> Iterator[str]:
    """Names that are imported below a node, also in functions, except those only for type checking."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    below: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        below = [*node.orelse]
    for child in below:
        yield from _imported(child)
