"""The rooms within the results, and which way they depend on each other."""

import ast

import pytest

from tests.conftest import ROOT

RESULTS = ROOT / "m2mkd" / "results"
FLOORS = [{"read"}, {"judge"}, {"tables"}, {"report", "crate"}]
"""From the ground up; a room knows of those on lower floors only."""


def rooms_imported(room: str) -> set[str]:
    """Other rooms of the results that the modules of a room import, also inside functions."""
    trees = [ast.parse(path.read_text()) for path in (RESULTS / room).glob("*.py")]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in imports for alias in node.names]
    return {name.split(".")[2] for name in names if name.startswith("m2mkd.results.")} - {room}


@pytest.mark.parametrize(("floor", "room"), [(floor, room) for floor, rooms in enumerate(FLOORS) for room in sorted(rooms)])
def test_a_room_depends_on_lower_floors_only(floor, room):
    imported = rooms_imported(room)
    assert imported <= set().union(*FLOORS[:floor])
    assert imported or floor == 0, "every room but the lowest knows another"


def test_every_module_stands_in_a_room():
    assert {path.name for path in RESULTS.iterdir() if path.name != "__pycache__"} == {"__init__.py", *set().union(*FLOORS)}
