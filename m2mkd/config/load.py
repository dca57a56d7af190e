"""Reading the files of ``config/``, merging them, and saying in one line what is wrong with them."""

import difflib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from m2mkd.config.compat import Switch
from m2mkd.config.datasets import Dataset
from m2mkd.config.experiment import Catalogue, Experiment, Scale, Settings
from m2mkd.errors import InputError

CONFIG = Path("config")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises
    ------
    InputError
        If the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run from the root of the project") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, but a mapping of field names to values is needed")
    return content


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it: mappings merge, anything else replaces."""
    result = dict(base)
    for name, value in change.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def checked(type_: Any, value: Any, where: str) -> Any:
    """``value`` as a configuration model.

    Raises
    ------
    InputError
        Names the first wrong field of ``where``, its value and what would be right.
    """
    try:
        return TypeAdapter(type_).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error, type_)}") from None


def _explain(error: ValidationError, type_: Any) -> str:
    problems = error.errors(include_url=False)
    # A typo gives an unknown field and often a missing one; the unknown one says more.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    field = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        known = sorted(_field_names(type_))
        close = difflib.get_close_matches(name, known, n=1)
        return f"{field} is not a known field; " + (f"did you mean '{close[0]}'?" if close else "remove it")
    if problem["type"] == "missing":
        return f"{field} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    return f"{field}: {message}" + ("" if isinstance(value, Mapping | BaseModel) else f" (it is {value!r})")


def _field_names(type_: Any) -> set[str]:
    """Names of all fields anywhere in a configuration model."""
    names: set[str] = set()

    def visit(schema: Any) -> None:
        if isinstance(schema, dict):
            names.update(schema.get("properties", {}))
            for part in schema.values():
                visit(part)
        elif isinstance(schema, list):
            for part in schema:
                visit(part)

    visit(TypeAdapter(type_).json_schema())
    return names


def named(folder: str, name: str) -> Path:
    """The YAML file of that name in a folder of ``config/``.

    Raises
    ------
    InputError
        If there is none; lists those that there are.
    """
    path = CONFIG / folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in (CONFIG / folder).glob("*.yaml"))
        close = difflib.get_close_matches(name, known, n=1)
        mend = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known) or 'none; run from the root of the project'}"
        raise InputError(f"{path}: no such {folder.removesuffix('s')} '{name}'; {mend}")
    return path


@cache
def datasets() -> dict[str, Dataset]:
    """The registry of data sets by name."""
    path = CONFIG / "datasets.yaml"
    return checked(dict[str, Dataset], read_yaml(path), str(path))


@cache
def switches() -> dict[str, Switch]:
    """The registry of compat switches by name."""
    path = CONFIG / "compat.yaml"
    return checked(dict[str, Switch], read_yaml(path), str(path))


def settings(changes: Mapping[str, Any] | None = None) -> Settings:
    """``config/config.yaml`` with ``changes`` laid over it; changes that name a scale stand for themselves, without the file."""
    path, changes = CONFIG / "config.yaml", changes or {}
    base = {} if "scale" in changes else read_yaml(path)
    return checked(Settings, merged(base, changes), str(path))


def scale(name: str, overrides: Mapping[str, Any]) -> Scale:
    """A scale of ``config/scales``, laid over the one that it extends, with overrides laid over both."""
    path = named("scales", name)
    content = read_yaml(path)
    if "extends" in content:
        content = merged(read_yaml(named("scales", str(content.pop("extends")))), content)
    return checked(Scale, merged(content, overrides), f"{path} with overrides" if overrides else str(path))


def catalogue(scale: Scale) -> Catalogue:
    """Architectures and recipes at a scale."""
    content = {}
    for part, changes in (("models", scale.models), ("recipes", scale.recipes)):
        path = CONFIG / f"{part}.yaml"
        base = read_yaml(path)
        for name in changes:
            if name not in base:
                raise InputError(f"{part}.{name}: the scale or the overrides change it, but {path} has none of that name; remove it")
        content[part] = merged(base, changes)
    return checked(Catalogue, content, "config/models.yaml and config/recipes.yaml at this scale")


def experiment(name: str, scale: Scale) -> Experiment:
    """One experiment of ``config/experiments`` at a scale."""
    path = named("experiments", name)
    return checked(Experiment, merged(read_yaml(path), scale.experiment_changes.get(name, {})), str(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: holds a {type(content).__name__}, but an object is needed")
    return content


def parse_overrides(assignments: list[str]) -> dict[str, Any]:
    """Read ``dotted.field=value`` assignments; values are YAML.

    Raises
    ------
    InputError
        If one of them has no ``=`` or no field.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        path, sign, value = assignment.partition("=")
        if not sign or not path:
            raise InputError(f"--set {assignment}: write dotted.field=value, for example recipes.distill_module.epochs=3")
        change: Any = yaml.safe_load(value)
        for name in reversed(path.split(".")):
            change = {name: change}
        result = merged(result, change)
    return result


def as_assignments(overrides: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Overrides as ``dotted.field=value`` assignments, the inverse of `parse_overrides`."""
    result = []
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            result += as_assignments(value, f"{prefix}{name}.")
        else:
            result.append(f"{prefix}{name}={json.dumps(value)}")
    return result
