"""Layouts of data sets: how images and classes lie in their source files, each a class that this package or another registers."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ValidationError

from m2mkd.config.base import Config
from m2mkd.errors import InputError
from m2mkd.plugins import BUILT_IN, Plugin, find_plugin

SplitName = Literal["train", "val"]
LAYOUT_GROUP = "m2mkd.layouts"
"""Group of entry points that layouts are registered in."""


class SourcePaths(NamedTuple):
    """Source files of a data set, as a layout reads them."""

    paths: tuple[Path, ...]
    splits: tuple[SplitName | None, ...]
    """Split of each file, where the registry gives it."""
    scratch: Path
    """Folder for decompressed archives, and for tables that would fill memory."""


class Layout(Config):
    """How a data set lies in its source.

    A subclass gives ``kind`` a literal and a default, which is the name of its entry point in the group ``m2mkd.layouts``. Its fields are
    its parameters. Those that have their default are part of no key. Layouts of other packages derive from
    `m2mkd.data.image_layout.ImageLayout`.
    """

    FORMAT: ClassVar[int] = 1
    """Version of its meaning."""
    SOURCES: ClassVar[tuple[int, ...] | None] = (1,)
    """Numbers of source files in ``data/raw`` that it can be read from; none: one or more."""
    IN_PLACE: ClassVar[bool] = False
    """True if it can be read from a ``path``, wherever that lies."""
    MADE_HERE: ClassVar[bool] = False
    """True if its images are made by this project."""
    HAS_SUBSETS: ClassVar[bool] = True
    """True if a list of images can select a part of it."""
    MAPPED: ClassVar[bool] = False
    """True if its files are mapped into memory, one at a time."""
    kind: str

    def read(self, source: SourcePaths) -> Any:
        """What the source files hold: classes and images, not read yet. It runs in a process that is bounded in memory and time.

        Raises
        ------
        InputError
            If a file is missing, damaged, or of another layout.
        """
        raise NotImplementedError

    def make(self, name: str, dataset: Any, image_size: int) -> Any:
        """Content to pack, of a layout whose images are made here; ``dataset`` is its entry in the registry."""
        raise NotImplementedError

    @property
    def stored(self) -> str | dict[str, Any]:
        """Its kind; with format version and what differs from the defaults if something does; of another package also with its origin."""
        known = type(self).model_fields.items()
        fields = self.model_dump(mode="json")
        changed = {name: fields[name] for name, field in known if getattr(self, name) != field.get_default(call_default_factory=True)}
        plugin = find_plugin(LAYOUT_GROUP, self.kind)
        if plugin.is_ours and not changed:
            return self.kind
        return {"kind": self.kind, "format": self.FORMAT, **changed} | ({} if plugin.is_ours else {"plugin": plugin.provenance()})


def kind_of(written: str | Mapping[str, Any]) -> str:
    """Kind of a layout from what people write: its name, or a mapping with ``kind`` and parameters.

    Raises
    ------
    InputError
        If it is neither, or there is no such kind.
    """
    kind = written.get("kind") if isinstance(written, Mapping) else written
    if not isinstance(kind, str):
        raise InputError(f"a layout is a name, or a mapping with a kind; there are {', '.join(BUILT_IN[LAYOUT_GROUP])}")
    return find_plugin(LAYOUT_GROUP, kind).name


def layout_class(kind: str) -> type[Layout]:
    """The class of a kind of layouts.

    Raises
    ------
    InputError
        If there is no such kind, or its plug-in cannot be loaded or is not a layout.
    """
    plugin = find_plugin(LAYOUT_GROUP, kind)
    found = plugin.load()
    if reason := _misfit(plugin, found):
        raise InputError(f"{plugin}: {plugin.value} {reason}; repair or uninstall {plugin.distribution}")
    layout: type[Layout] = found
    return layout


def layout_from(written: str | Mapping[str, Any]) -> Layout:
    """A layout from what people write; see `kind_of`.

    Raises
    ------
    InputError
        As `kind_of` and `layout_class`, or if a parameter is unknown or wrong.
    """
    cls = layout_class(kind_of(written))
    content = {name: value for name, value in written.items() if name != "kind"} if isinstance(written, Mapping) else {}
    for name in content:
        if name not in cls.model_fields:
            close = difflib.get_close_matches(name, cls.model_fields, n=1)
            has = ", ".join(field for field in cls.model_fields if field != "kind") or "none"
            raise InputError(f"{name} is not a parameter of the layout; " + (f"did you mean '{close[0]}'?" if close else f"it has {has}"))
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (it is {first['input']!r}); correct it") from None


def _misfit(plugin: Plugin, found: Any) -> str:
    """Why an entry point is not a layout; empty if it is one."""
    if not (isinstance(found, type) and issubclass(found, Layout)):
        return "is not a subclass of m2mkd.config.layout.Layout"
    if found.model_fields["kind"].default != plugin.name:
        return f"has kind {found.model_fields['kind'].default!r}, but its entry point is '{plugin.name}'; give both one name"
    if not plugin.is_ours and not found.IN_PLACE:
        return "is not a subclass of m2mkd.data.image_layout.ImageLayout"
    if found.IN_PLACE and not {"images", "recognises"} <= set(dir(found)):
        return "has no method images, or none recognises"
    return ""


def layout_schema() -> dict[str, Any]:
    """JSON schema of the field ``layout``: the name of a layout, or a mapping with its kind and parameters."""
    ours = [layout_class(kind).model_json_schema() for kind in BUILT_IN[LAYOUT_GROUP]]
    with_parameters = [schema | {"required": ["kind"]} for schema in ours if len(schema["properties"]) > 1]
    other: dict[str, Any] = {"title": "Of another package", "type": "object", "required": ["kind"]}
    other["properties"] = {"kind": {"type": "string", "not": {"enum": list(BUILT_IN[LAYOUT_GROUP])}}}
    return {"anyOf": [{"type": "string", "examples": list(BUILT_IN[LAYOUT_GROUP])}, *with_parameters, other]}
