"""The rooms of the package: which way they depend on each other, how large a file is, and that no name means two things."""

import ast
import re
from collections import defaultdict
from functools import cache

import networkx as nx
import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "m2mkd"
FLOORS = [
    {"config"},
    {"study"},
    {"data", "models"},
    {"distill", "detection", "evaluation", "planning"},
    {"families"},
    {"upstream", "results"},
    {"hub", "progress", "tracking"},
    {"training"},
    {"api", "cli"},
]
"""From the ground up; a room knows of those on lower floors only."""
MOST_LINES = 350
CIRCLES: dict[frozenset[str], str] = {}
"""Modules that import each other all the same, with the reason."""
TWICE = {
    **dict.fromkeys(
        (
            *("BLOCK", "CHUNK", "COLUMNS", "DIGITS", "FOLDERS", "GROUND", "INK", "INPUTS", "MARGIN", "NAMES"),
            *("PUBLISHED", "TEXT", "VALUES"),
        ),
        "a constant of its module, which no other takes by this name",
    ),
    **dict.fromkeys(("batched_nms", "roi_align"), "one operator, of torchvision and in torch alone"),
    "Augmentation": "of classification, and of detection",
    "Backbone": "of a NAC's tokenizer, and of a detector",
    "Results": "of a study as it is judged, and as frames for a person",
    "Mark": "in a figure, and on an image",
    "Source": "of released tensors, and of the images of a split",
    "edges": "of an image, and of what a claim takes for so",
    "origin": "of a container's image, and of a run",
}
"""Public names of several modules beside commands, which have the names of what they do, and ``run`` of each phase; with the reason."""


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")}
    return {name: ast.parse(path.read_text()) for name, path in paths.items()}


def imported_by(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports, also inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & modules().keys()) or {str(node.module)}
            if not inner <= modules().keys():
                names.add(str(node.module))
    return names & modules().keys() - {"m2mkd"}


@cache
def imports() -> nx.DiGraph:
    """Which module imports which."""
    graph = nx.DiGraph()
    graph.add_nodes_from(modules())
    graph.add_edges_from((name, other) for name, tree in modules().items() for other in imported_by(tree) if other != name)
    return graph


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def in_room(room: str) -> list[str]:
    return [name for name in modules() if room_of(name) == room]


def test_every_room_that_computes_stands_on_a_floor():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms - set().union(*FLOORS) == {"containers", "doctor"}  # which look at the machine, and which any room may ask


def test_the_page_on_the_architecture_has_the_same_floors():
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    lines = re.findall(r"^\| (\d) \| (.+?) \|", page, re.MULTILINE)
    assert {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in lines} == dict(enumerate(FLOORS, start=1))


@pytest.mark.parametrize(("floor", "room"), [(floor, room) for floor, rooms in enumerate(FLOORS) for room in sorted(rooms)])
def test_a_room_depends_on_lower_floors_only(floor, room):
    reached = {other: name for name in in_room(room) for other in imports().successors(name) if room_of(other) != room}
    assert reached, "every room knows at least the errors"
    above = set().union(*FLOORS[floor:])
    assert {other: name for other, name in reached.items() if room_of(other) in above} == {}


def test_training_knows_nothing_of_results_not_even_through_others():
    graph = imports()
    found = {
        name: nx.shortest_path(graph, name, other)
        for name in in_room("training")
        for other in nx.descendants(graph, name)
        if room_of(other) == "results"
    }
    assert found == {}


def test_imports_form_no_circle():
    circles = {frozenset(part) for part in nx.strongly_connected_components(imports()) if len(part) > 1}
    assert circles == CIRCLES.keys()


@pytest.mark.parametrize("folder", ["m2mkd", "tests", "workflow"])
def test_no_file_is_long(folder):
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".smk")]
    long = {path.relative_to(ROOT).as_posix(): count for path in files if (count := len(path.read_text().splitlines())) > MOST_LINES}
    assert long == {}


def test_what_tests_share_is_in_no_file_of_tests():
    """Else one cannot be run, moved or split without the other."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            assert not any(part.startswith("test_") for name in named for part in name.split(".")), path


def defined_in(tree: ast.Module) -> set[str]:
    """Public names that a module defines at its top."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return {name for name in names if not name.startswith("_") and len(name) > 1}  # one letter is a type variable


def test_no_public_name_means_two_things():
    defined = defaultdict(set)
    for module, tree in modules().items():
        for name in defined_in(tree):
            if room_of(module) != "cli" and not (name == "run" and module.startswith("m2mkd.training.phases.")):
                defined[name].add(module)
    twice = {name: sorted(where) for name, where in defined.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in TWICE} == {}
    assert TWICE.keys() - twice.keys() == set(), "these need no exception any more; remove them"


def test_the_checks_see_what_they_are_for():
    tree = ast.parse(
        "import m2mkd.results.tables\ndef later():\n    from m2mkd.study import files, plan\n    from m2mkd.study.run import Run\n"
    )
    assert imported_by(tree) == {"m2mkd.results.tables", "m2mkd.study.files", "m2mkd.study.plan", "m2mkd.study.run"}
    source = "AA, BB = 1, 2\nCC: int = 3\n_dd = 4\ndef ee(): pass\nclass FF: pass\nT = 1"
    assert defined_in(ast.parse(source)) == {
        "AA",
        "BB",
        "CC",
        "ee",
        "FF",
    }
