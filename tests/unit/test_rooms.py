"""The rooms of the package, and which way they depend on each other."""

import ast

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "m2mkd"
FLOORS = [
    {"config"},
    {"data", "models"},
    {"distill", "detection", "evaluation", "planning"},
    {"upstream", "results"},
    {"tracking"},
    {"training"},
    {"cli"},
]
"""From the ground up; a room knows of those on lower floors only."""


def rooms_imported(room: str) -> dict[str, str]:
    """Other rooms that the modules of a room import, also inside functions, with a module that does so."""
    found = {}
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.startswith("m2mkd.") and name.split(".")[1] != room:
                    found[name.split(".")[1]] = str(path.relative_to(ROOT))
    return found


@pytest.mark.parametrize(("floor", "room"), [(floor, room) for floor, rooms in enumerate(FLOORS) for room in sorted(rooms)])
def test_a_room_depends_on_lower_floors_only(floor, room):
    imported = rooms_imported(room)
    assert imported, "every room knows at least the errors"
    above = set().union(*FLOORS[floor:]) & imported.keys()
    assert not above, {name: imported[name] for name in above}
