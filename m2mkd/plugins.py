"""Plug-ins: objectives and other parts that packages add through entry points, and our own, which are registered alike."""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from m2mkd import __version__
from m2mkd.errors import InputError
from m2mkd.sources import tree_digest

BUILT_IN: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "m2mkd.objectives": {
            "labels": "m2mkd.distill.terms:Labels",
            "soft": "m2mkd.distill.terms:Soft",
            "hard": "m2mkd.distill.terms:Hard",
            "standardised": "m2mkd.distill.terms:Standardised",
            "dkd": "m2mkd.distill.terms:DKD",
            "dist": "m2mkd.distill.terms:DIST",
            "pld": "m2mkd.distill.terms:PLD",
            "ofa": "m2mkd.distill.terms:OFA",
            "features": "m2mkd.distill.terms:Features",
        },
        "m2mkd.students": {
            "vmoe": "m2mkd.families.vmoe:VMoEFamily",
            "nac": "m2mkd.families.nac:NACFamily",
        },
        "m2mkd.layouts": {
            "digits": "m2mkd.data.registered_layouts:Digits",
            "digits_rendition": "m2mkd.data.registered_layouts:DigitsRendition",
            "digits_scenes": "m2mkd.data.registered_layouts:DigitsScenes",
            "tiny_imagenet": "m2mkd.data.registered_layouts:TinyImageNet",
            "tiny_imagenet_r": "m2mkd.data.registered_layouts:TinyImageNetR",
            "tiny_imagenet_rendition": "m2mkd.data.registered_layouts:TinyImageNetRendition",
            "image_folder": "m2mkd.data.registered_layouts:ImageFolder",
            "imagenet": "m2mkd.data.registered_layouts:ImageNet",
            "imagenet_r": "m2mkd.data.registered_layouts:ImageNetR",
            "cifar100": "m2mkd.data.registered_layouts:CIFAR100",
            "cub": "m2mkd.data.registered_layouts:CUB",
            "coco": "m2mkd.data.registered_layouts:COCO",
            "parquet": "m2mkd.data.own_layouts:Parquet",
            "folder": "m2mkd.data.own_layouts:Folder",
            "csv": "m2mkd.data.own_layouts:CSV",
            "webdataset": "m2mkd.data.own_layouts:WebDataset",
        },
        "m2mkd.metrics": {
            "top1": "m2mkd.evaluation.metrics:top1_accuracy",
            "top5": "m2mkd.evaluation.metrics:top5_accuracy",
            "loss": "m2mkd.evaluation.metrics:loss",
            "ece": "m2mkd.evaluation.metrics:ece",
            "ece_equal_mass": "m2mkd.evaluation.metrics:ece_equal_mass",
        },
    }
)
"""Our own entry points by group, as in ``pyproject.toml``. Metadata of an installation may be older than the sources that run."""


@dataclass(frozen=True)
class Plugin:
    """An entry point: a part that can be asked for by name."""

    group: str
    name: str
    value: str
    """Module and attribute, as ``module:attribute``."""
    distribution: str
    version: str

    @property
    def is_ours(self) -> bool:
        """True if it is of this package, whose format versions and code digests stand for it."""
        return self.distribution == "m2mkd"

    def __str__(self) -> str:
        return f"plug-in '{self.name}' of {self.distribution} {self.version} ({self.group})"

    def load(self) -> Any:
        """The object that the entry point names.

        Raises
        ------
        InputError
            If it cannot be imported, whatever the reason.
        """
        try:
            return resolved(self.value)
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            raise InputError(
                f"{self}: cannot be loaded ({type(error).__name__}: {error}); repair or uninstall {self.distribution}"
            ) from error

    def provenance(self) -> dict[str, str]:
        """Name and version of its distribution and the digest of its code, for the key and the record of a run.

        Raises
        ------
        InputError
            If its sources cannot be found or read.
        """
        return {"distribution": self.distribution, "version": self.version, "code": _code_digest(self, tuple(sys.path))}

    def require_same(self, stored: Any, what: str) -> None:
        """Refuse what was stored with another package, version or code.

        Raises
        ------
        InputError
            If the ``stored`` provenance, None for one of ours, is not today's; ``what`` names the part.
        """
        now = None if self.is_ours else self.provenance()
        if stored != now:
            raise InputError(f"{what}: stored with plug-in {stored}, but it is {now} now; plan again")


def resolved(value: str) -> Any:
    """The object that ``module:attribute`` names."""
    module, _, attribute = value.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def find_plugin(group: str, name: str, *others: str) -> Plugin:
    """The plug-in of that name; our own are found without a look at other packages.

    Parameters
    ----------
    group, name
        Group of entry points, and name in it.
    *others
        Names that are possible too, but no plug-ins, for the message.

    Raises
    ------
    InputError
        If there is none, or if several packages have one of that name; the message names those that there are.
    """
    if name in BUILT_IN[group]:
        return _our_own(group, name)
    found = [plugin for plugin in _third_party(group, tuple(sys.path)) if plugin.name == name]
    if len(found) > 1:
        packages = " and ".join(sorted(plugin.distribution for plugin in found))
        raise InputError(f"'{name}' is a plug-in ({group}) of {packages}; uninstall all but one of them")
    if not found:
        known = sorted({*others, *(plugin.name for plugin in all_plugins(group))})
        close = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"there is no '{name}' among {group}; {guess}There are {', '.join(known)}")
    return found[0]


def all_plugins(group: str) -> tuple[Plugin, ...]:
    """Our own, then those of other packages; nothing is loaded."""
    return (*(_our_own(group, name) for name in BUILT_IN[group]), *_third_party(group, tuple(sys.path)))


def listed_plugins(group: str, load: Callable[[str], object]) -> list[dict[str, str]]:
    """Every plug-in of a group with the package that it is of; ``warning`` says in one line why it cannot be used, and is empty if it can.

    Parameters
    ----------
    group
        Group of entry points.
    load
        Loads the one of a name, and raises `InputError` if it is none.
    """
    listed = []
    for plugin in all_plugins(group):
        try:
            load(plugin.name)
            if not plugin.is_ours:
                plugin.provenance()
            warning = "" if find_plugin(group, plugin.name) == plugin else f"the name is taken by {find_plugin(group, plugin.name)}"
        except InputError as error:
            warning = str(error)
        package = {"package": plugin.distribution, "version": plugin.version}
        listed.append({"group": plugin.group, "name": plugin.name, **package, "warning": warning})
    return listed


def _our_own(group: str, name: str) -> Plugin:
    return Plugin(group, name, BUILT_IN[group][name], "m2mkd", __version__)


@cache
def _third_party(group: str, _path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Entry points of other packages, in alphabetical order; scanning them takes as long as some commands in all."""
    # One distribution may be on the path twice, as an editable installation can be.
    found = {
        Plugin(group, point.name, point.value, point.dist.name, point.dist.version)
        for point in entry_points(group=group)
        if point.dist is not None and point.dist.name != "m2mkd"
    }
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


@cache
def _code_digest(plugin: Plugin, _path: tuple[str, ...]) -> str:
    """Digest of the files of the package that the entry point is in; of Python sources without comments and docstrings."""
    module = plugin.value.partition(":")[0]
    try:
        total = hashlib.sha256()
        for name, path in _files_of(module):
            content = path.read_bytes()
            code = tree_digest(ast.parse(content)) if path.suffix == ".py" else hashlib.sha256(content).hexdigest()
            total.update(f"{name} {code}\n".encode())
    except (ImportError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{plugin}: its code cannot be read ({type(error).__name__}: {error}); repair {plugin.distribution}") from error
    return total.hexdigest()[:16]


def _files_of(module: str) -> list[tuple[str, Path]]:
    """Files of the outermost package of a module that is no namespace, or the one file of a module, with their names in it."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = importlib.util.find_spec(".".join(parts[:count]))
        if spec is None:
            raise ImportError(f"no module {'.'.join(parts[:count])}")
        if spec.origin is None:
            continue
        if spec.submodule_search_locations is None:
            return [(parts[count - 1], Path(spec.origin))]
        folder = Path(spec.origin).parent
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return [(path.relative_to(folder).as_posix(), path) for path in paths]
    raise ImportError(f"{module} is a namespace, not a module")
