"""JSON schemas of the configuration files, exported from the models so that editors and the workflow can check them."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from m2mkd.config.base import Name
from m2mkd.config.compat import Switch
from m2mkd.config.datasets import DatasetConfig
from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.experiment import Experiment, Scale, Settings
from m2mkd.config.models import Model
from m2mkd.config.recipe import Recipe
from m2mkd.errors import InputError
from m2mkd.files import write_text

FILES: dict[str, Any] = {
    "config": Settings,
    "experiment": Experiment,
    "scale": Scale,
    "models": dict[Name, Model],
    "recipes": dict[Name, Recipe],
    "detectors": dict[Name, dict[str, Any]],
    "detection_recipes": dict[Name, DetectionRecipe],
    "datasets": dict[Name, DatasetConfig],
    "compat": dict[str, Switch],
}
"""Configuration model that each schema describes."""


def schema_text(type_: Any) -> str:
    """JSON schema of a configuration model, as the text of its file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | TypeAdapter(type_).json_schema()
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def export_schemas(folder: Path, *, check: bool) -> None:
    """Write every schema to ``folder``, or only check that it is current.

    Raises
    ------
    InputError
        With ``check``, if a file is absent or differs.
    """
    for name, type_ in FILES.items():
        path, text = folder / f"{name}.schema.json", schema_text(type_)
        if not check:
            write_text(path, text)
        elif not path.is_file() or path.read_text() != text:
            raise InputError(f"{path}: differs from the package's models; run 'm2mkd config export'")
