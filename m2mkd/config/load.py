"""Reading and merging the files of ``config/``, with one line for each fault in them."""

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from m2mkd.config.base import NAME, Name
from m2mkd.config.compat import Switch
from m2mkd.config.datasets import DataRef, DatasetConfig
from m2mkd.config.detection_experiment import DetectionExperiment
from m2mkd.config.experiment import AblationExperiment, Catalogue, Experiment, Scale, Settings
from m2mkd.config.merge import at_full_size, merged, with_inherited
from m2mkd.config.strict import LARGEST_JSON, LARGEST_YAML, parse_json, parse_yaml
from m2mkd.errors import InputError
from m2mkd.files import require_file

CONFIG = Path("config")
OWN_DATASETS = "own-datasets.yaml"
"""File of the data sets that a project adds; absent until there is one."""
RENAMED = {"replicates": "seeds", "replicates_per_job": "seeds_per_job"}
"""Fields of earlier versions, and their present names."""


def read_yaml(path: Path, *, ours: bool = True) -> dict[str, Any]:
    """Read the mapping in a YAML file; see `parse_yaml`.

    Raises
    ------
    InputError
        If the file cannot be read, is not YAML in UTF-8, or is not a mapping.
    """
    try:
        if require_file(path).st_size > LARGEST_YAML:
            raise InputError(f"{path}: is larger than {LARGEST_YAML} bytes; a configuration is shorter")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run from the root of the project") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    content = parse_yaml(text, str(path), ours=ours)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, but a mapping of field names to values is needed")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; see `parse_json`.

    Raises
    ------
    OSError
        If it cannot be read.
    InputError
        If it is not a file, is larger than any file of this suite, or does not hold a JSON object.
    """
    if require_file(path).st_size > LARGEST_JSON:
        raise InputError(f"{path}: is larger than {LARGEST_JSON} bytes; no file of this suite is")
    return parse_json(path.read_bytes(), str(path))


def read_config(path: Path) -> dict[str, Any]:
    """Read the mapping in a configuration file, in YAML or, if so named, in JSON; raises as `read_yaml`."""
    if path.suffix != ".json":
        return read_yaml(path)
    try:
        return read_json(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a configuration file") from None


def checked(type_: Any, value: Any, where: str) -> Any:
    """Validate ``value`` as a configuration model.

    Raises
    ------
    InputError
        If a field is wrong; names the first one of ``where``, its value and a correct one.
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
        if name in known:
            return f"{field} is not a field here; move it to where it belongs, or remove it"
        close = [RENAMED[name]] if name in RENAMED else difflib.get_close_matches(name, known, n=1)
        return f"{field} is not a known field; " + (f"did you mean '{close[0]}'?" if close else "remove it")
    if problem["type"] == "missing":
        return f"{field} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch" and NAME in problem["ctx"]["pattern"]:
        message = "not a name; write letters, digits, '.', '_' and '-', the first a letter or digit"
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


def named(folder: str, name: str, field: str = "") -> Path:
    """Path of the YAML file of that name in a folder of ``config/``; ``field`` names the name's place.

    Raises
    ------
    InputError
        If there is none; lists the existing ones.
    """
    path = CONFIG / folder / f"{name}.yaml"
    known = sorted(file.stem for file in (CONFIG / folder).glob("*.yaml"))
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known) or 'none; run from the root of the project'}"
        raise InputError(f"{field or path}: no such {folder.removesuffix('s')} '{name}'; {fix}")
    if not re.fullmatch(NAME, name):
        fix = "a name has letters of English, digits, '.', '_' and '-', and begins with a letter or digit; rename it"
        raise InputError(f"{field or path}: {name!r} cannot be the name of a {folder.removesuffix('s')}; {fix}")
    return path


@cache
def datasets() -> dict[str, DatasetConfig]:
    """The registry of data sets by name: ours, then the project's own.

    Raises
    ------
    InputError
        If an entry is wrong, or a name is in both files.
    """
    path, own = CONFIG / "datasets.yaml", CONFIG / OWN_DATASETS
    ours: dict[str, DatasetConfig] = checked(dict[Name, DatasetConfig], read_yaml(path), str(path))
    added: dict[str, DatasetConfig] = checked(dict[Name, DatasetConfig], read_yaml(own), str(own)) if own.exists() else {}
    if twice := sorted(ours.keys() & added.keys()):
        raise InputError(f"{own}: {twice[0]} is in {path} too; give it another name")
    return ours | added


@cache
def switches() -> dict[str, Switch]:
    """The registry of compat switches by name."""
    path = CONFIG / "compat.yaml"
    return checked(dict[str, Switch], read_yaml(path), str(path))


def forget_files() -> None:
    """Clear the cache, before another folder is read."""
    datasets.cache_clear()
    switches.cache_clear()


def dataset_named(name: str, field: str) -> DatasetConfig:
    """An entry of the registry of data sets.

    Raises
    ------
    InputError
        If there is none; ``field`` names the name's place.
    """
    if name not in datasets():
        raise InputError(f"{field}: data set '{name}' is not in config/datasets.yaml; it has {', '.join(sorted(datasets()))}")
    return datasets()[name]


def data_ref(text: str, field: str) -> DataRef:
    """A data set of the registry, written ``name@size``.

    Raises
    ------
    InputError
        If it is not of that form, not in the registry, or not available at that size; ``field`` names its place.
    """
    ref = DataRef.parse(text, field)
    dataset_named(ref.name, field).require_size(ref, field)
    return ref


def settings(changes: Mapping[str, Any] | None = None) -> Settings:
    """Merge ``changes`` into ``config/config.yaml``; changes that name a scale are used without the file."""
    path, changes = CONFIG / "config.yaml", changes or {}
    base = {} if "scale" in changes else read_yaml(path)
    return checked(Settings, merged(base, changes), str(path))


def scale(name: str, overrides: Mapping[str, Any]) -> Scale:
    """Scale of ``config/scales``, merged into those that it extends, with overrides merged last.

    Raises
    ------
    InputError
        If a field is wrong, a scale extends itself, or a change is to an experiment or a data set that does not exist.
    """
    path = named("scales", name)
    content = _extended(merged(read_yaml(path), overrides), (name,))
    return _checked_scale(content, f"{path} with overrides" if overrides else str(path))


def scale_differences(before: Scale, after: Scale) -> dict[str, Any]:
    """Fields in which one scale differs from another, in the shape of a scale file."""
    return _changes(before.model_dump(mode="json"), after.model_dump(mode="json"))


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    changes = {}
    for name, value in after.items():
        old = before.get(name)
        if value != old:
            changes[name] = _changes(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return changes


def changed(scale: Scale, changes: Mapping[str, Any], where: str) -> Scale:
    """Merge changes into a scale.

    Raises
    ------
    InputError
        As `scale`; ``where`` names the changes' place.
    """
    return _checked_scale(merged(scale.model_dump(mode="json"), changes), where)


def _checked_scale(content: dict[str, Any], where: str) -> Scale:
    result = checked(Scale, content, where)
    for name in result.experiment_changes:
        named("experiments", name, "experiment_changes")
        experiment(name, result)
    for original, substitute in result.data.items():
        data_ref(original, "data")
        data_ref(substitute, f"data.{original}")
    return result


def _extended(content: dict[str, Any], chain: tuple[str, ...]) -> dict[str, Any]:
    """Content of the last scale of ``chain``, merged into the scale that it extends, and so on; earlier ones extend later ones."""
    base = content.get("extends")
    if base is None:
        return content
    if base in chain:
        raise InputError(f"config/scales/{chain[-1]}.yaml: extends: {' extends '.join((*chain, base))}; remove extends from one of them")
    parent = read_yaml(named("scales", str(base), f"config/scales/{chain[-1]}.yaml: extends"))
    return merged(_extended(parent, (*chain, str(base))), content)


def catalogue(scale: Scale) -> Catalogue:
    """Architectures and recipes at a scale."""
    content = {}
    for part in Catalogue.model_fields:
        path, changes = CONFIG / f"{part}.yaml", getattr(scale, part)
        base = read_yaml(path)
        for name in changes:
            if name not in base:
                raise InputError(f"{part}.{name}: the scale or the overrides change it, but {path} has none of that name; remove it")
        content[part] = merged(base, changes)
    content["models"] = with_inherited(content["models"], f"{CONFIG}/models.yaml")
    return checked(Catalogue, content, "config/models.yaml, config/recipes.yaml and the like at this scale")


def full_size(file: Scale, scale: Scale) -> frozenset[str]:
    """Models that a scale whose file reduces others leaves at their published size, and so do the overrides in ``scale``."""
    models = merged(read_yaml(CONFIG / "models.yaml"), scale.models)
    return at_full_size(models, scale.models) if file.models else frozenset()


def experiment(name: str, scale: Scale) -> Experiment:
    """Experiment of ``config/experiments`` at a scale."""
    path = named("experiments", name)
    return checked(Experiment, merged(read_yaml(path), scale.experiment_changes.get(name, {})), str(path))


def ablations(scale_name: str, scale: Scale) -> list[str]:
    """Names of the experiments that are ablations of a scale, in alphabetical order."""
    return _of_scale(scale_name, scale, AblationExperiment)


def detections(scale_name: str, scale: Scale) -> list[str]:
    """Names of the detectors that a scale has in addition to its study, in alphabetical order."""
    return _of_scale(scale_name, scale, DetectionExperiment)


def _of_scale(scale_name: str, scale: Scale, kind: type[AblationExperiment | DetectionExperiment]) -> list[str]:
    names = sorted(path.stem for path in (CONFIG / "experiments").glob("*.yaml"))
    found = {name: one for name in names if isinstance(one := experiment(name, scale), kind)}
    for name, one in found.items():
        for wanted in one.scales:
            named("scales", wanted, f"{CONFIG / 'experiments' / name}.yaml: scales")
    return [name for name, one in found.items() if scale_name in one.scales]


def parse_overrides(assignments: list[str]) -> dict[str, Any]:
    """Read ``dotted.field=value`` assignments; values are YAML.

    Raises
    ------
    InputError
        If one of them has no ``=`` or no field, or its value is not YAML.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        path, sign, value = assignment.partition("=")
        if not sign or not path:
            raise InputError(f"--set {assignment}: write dotted.field=value, for example recipes.distill_module.epochs=3")
        change: Any = parse_yaml(value, f"--set {assignment}")
        for name in reversed(path.split(".")):
            change = {name: change}
        result = merged(result, change)
    return result


def as_assignments(overrides: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Write overrides as ``dotted.field=value`` assignments, the inverse of `parse_overrides`."""
    result = []
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            result += as_assignments(value, f"{prefix}{name}.")
        else:
            result.append(f"{prefix}{name}={json.dumps(value, ensure_ascii=False)}")
    return result
