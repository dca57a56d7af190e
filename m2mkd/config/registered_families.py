"""Registry of families: how a family of networks, of this package or of another, is found by its name."""

import re
from typing import Any

from m2mkd.config.family import Architecture, Family, StudentFamily
from m2mkd.errors import InputError
from m2mkd.plugins import Plugin, all_plugins, find_plugin, resolved

STUDENT_GROUP = "m2mkd.students"
"""Group of entry points that families of students are registered in."""
TEACHERS = {"vit": "m2mkd.families.vit:ViT"}
"""Families that are not students: those of teachers and meta models."""
RESERVED = frozenset({*TEACHERS, "detector", "transfer"})
"""Names that mean something else in plans and tables."""


def family_of(config: Architecture) -> Family[Any]:
    """The family of an architecture."""
    return family_named(config.family)


def student_family(config: Architecture) -> StudentFamily[Any]:
    """The family of a student's architecture."""
    return student_family_named(config.family)


def family_named(name: str) -> Family[Any]:
    """The family of that name, of students or of teachers; raises as `student_family_named`."""
    if name in TEACHERS:
        found: Family[Any] = resolved(TEACHERS[name])()
        return found
    return _checked(find_plugin(STUDENT_GROUP, name, *TEACHERS))


def student_family_named(name: str) -> StudentFamily[Any]:
    """The family of students of that name.

    Raises
    ------
    InputError
        If there is none, or its plug-in cannot be loaded or is not a family.
    """
    return _checked(find_plugin(STUDENT_GROUP, name))


def student_families() -> list[str]:
    """Names of all families of students, ours first."""
    return list(dict.fromkeys(plugin.name for plugin in all_plugins(STUDENT_GROUP)))


def _checked(plugin: Plugin) -> StudentFamily[Any]:
    found = plugin.load()
    if reason := _misfit(plugin, found):
        raise InputError(f"{plugin}: {plugin.value} {reason}; repair or uninstall {plugin.distribution}")
    family: StudentFamily[Any] = found()
    return family


def _misfit(plugin: Plugin, found: Any) -> str:
    """Why an entry point is not a family of students; empty if it is one."""
    if not (isinstance(found, type) and issubclass(found, StudentFamily)):
        return "is not a subclass of m2mkd.config.family.StudentFamily"
    config = getattr(found, "CONFIG", None)
    if not (isinstance(config, type) and issubclass(config, Architecture)):
        return "has no CONFIG that is a subclass of m2mkd.config.family.Architecture"
    named = config.model_fields["family"].default
    if named != plugin.name:
        return f"has family {named!r}, but its entry point is '{plugin.name}'; give both one name"
    if plugin.name in RESERVED or not re.fullmatch(r"[a-z][a-z0-9_]*", plugin.name):
        return "has a name that is taken, or not of lower-case letters, digits and '_'"
    return _lack(found, config)


def _lack(family: type[StudentFamily[Any]], config: type[Architecture]) -> str:
    """What a family must have and has not, or has and must not; empty if it is complete."""
    if taken := {"plugin", "like"} & config.model_fields.keys():
        return f"has a CONFIG with the field {min(taken)}, which means something else; rename it"
    if not getattr(family, "LABEL", ""):
        return "has no LABEL"
    lacking = [name for name in ("build", "build_module") if getattr(family, name) is getattr(StudentFamily, name)]
    lacking += [name for name in ("modules", "stride") if getattr(config, name) is getattr(Architecture, name)]
    return f"has no {' and no '.join(lacking)}" if lacking else ""
