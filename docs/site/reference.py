"""Reference pages from the source: the command line from its parser, the configuration's fields from its models."""

import json
from collections.abc import Iterator
from typing import Any

import typer
from pydantic import TypeAdapter

from m2mkd.cli import app
from m2mkd.config.schemas import FILES

FILE_OF = {
    "config": "config/config.yaml",
    "experiment": "config/experiments/*.yaml",
    "scale": "config/scales/*.yaml",
    "models": "config/models.yaml",
    "recipes": "config/recipes.yaml",
    "detectors": "config/detectors.yaml",
    "detection_recipes": "config/detection_recipes.yaml",
    "datasets": "config/datasets.yaml",
    "compat": "config/compat.yaml",
}
"""Where a person writes what each schema describes."""


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Command line",
        "Made from the command line itself when this site is built. `m2mkd COMMAND --help` prints the same.",
        "Exit codes: 0 is success, 2 bad input (one line says what and how to fix it), 75 a training that a signal stopped and that the "
        "same command resumes, 130 Ctrl-C.",
    ]
    for name, command in _commands(typer.main.get_command(app), "m2mkd"):
        parts += [f"## `{name}`", (command.help or "").strip(), f"```text\n{name} {_usage(command)}\n```"]
        rows = [_parameter(one) for one in command.params if one.name != "help"]
        if rows:
            parts.append("\n".join(["| argument or option | meaning | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, one in sorted(inner.items()):
        yield from _commands(one, f"{name} {word}")


def _usage(command: Any) -> str:
    words = ["[OPTIONS]"] if any(one.param_type_name == "option" for one in command.params) else []
    for one in command.params:
        if one.param_type_name == "argument":
            label = one.metavar or one.name.upper()
            words.append(label if one.required or label.startswith("[") else f"[{label}]")
    return " ".join(words)


def _parameter(one: Any) -> str:
    if one.param_type_name == "argument":
        names = one.metavar or one.name.upper()
    else:
        names = ", ".join([*one.opts, *one.secondary_opts]) + ("" if one.is_flag else " " + (one.metavar or "VALUE"))
    default = "" if one.default in (None, False) or callable(one.default) else _code(one.default)
    default = "required" if one.required else default
    told = (one.help or "") + (f" Environment: `{one.envvar}`." if one.envvar else "")
    return f"| `{names}` | {_cell(told)} | {default} |"


def fields_page() -> str:
    """Every field of the configuration files: type, default and meaning."""
    parts = [
        "# Configuration, field by field",
        "Made from the models that validate the files when this site is built; unknown fields are refused. [What each file is "
        "for](config.md), with examples, and [`m2mkd config show`](cli.md#m2mkd-config-show) prints resolved values.",
    ]
    for name, type_ in FILES.items():
        schema = TypeAdapter(type_).json_schema()
        parts += [f"## `{FILE_OF[name]}`"]
        objects = ({schema["title"]: schema} if "properties" in schema else {}) | schema.get("$defs", {})
        objects = {title: one for title, one in objects.items() if "properties" in one}
        if not objects:
            parts.append("By name, a mapping with the same fields as the file that it changes.")
        for title, one in objects.items():
            if len(objects) > 1 or title != schema.get("title"):
                parts.append(f"### {title} {{ #{name}-{title.lower()} }}")
            if one.get("description"):
                parts.append(_prose(one["description"]))
            required = set(one.get("required", ()))
            rows = [_field(field, facts, field in required) for field, facts in one["properties"].items()]
            parts.append("\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _field(field: str, facts: dict[str, Any], required: bool) -> str:
    default = "required" if required else _code(facts.get("default"))
    return f"| `{field}` | {_type(facts)} | {default} | {_cell(_prose(facts.get('description', '')))} |"


PLAIN = {"null": "none", "integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
"""Words for JSON's own types."""


def _type(facts: dict[str, Any]) -> str:
    """A schema's type in words."""
    if alternatives := facts.get("anyOf") or facts.get("oneOf") or facts.get("allOf"):
        return " or ".join(dict.fromkeys(_type(one) for one in alternatives))
    if "enum" in facts or "const" in facts:
        return " or ".join(_code(value) for value in facts.get("enum", [facts.get("const")]))
    if "$ref" in facts:
        return str(facts["$ref"]).rsplit("/", 1)[-1]
    kind = facts.get("type", "anything")
    if kind == "array":
        return f"list of {_type(facts.get('items', {}))}"
    if kind == "object":
        inner = facts.get("additionalProperties") or next(iter(facts.get("patternProperties", {}).values()), None)
        return f"mapping of {_type(inner)}" if isinstance(inner, dict) else "mapping"
    return PLAIN.get(kind, kind) + _bounds(facts)


def _bounds(facts: dict[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    told = [f"{word} {facts[key]:g}" for key, word in words.items() if key in facts]
    return f", {', '.join(told)}" if told else ""


def _code(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    if len(text) > 60:
        return "its fields' defaults"
    return f"`{text}`".replace("|", "\\|") if value is not None else "none"


def _prose(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
