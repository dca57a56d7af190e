"""YAML and JSON in which nothing stands twice, and nothing is quietly taken for something else."""

import json
import re
from functools import cache
from typing import Any

import yaml

from m2mkd.errors import InputError

QUIRKS = [
    (re.compile(r"(?i:yes|no|on|off)"), "write true or false, or put it in quotes"),
    (re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?"), "put it in quotes, for YAML 1.1 takes it for a number to the base 60"),
    (re.compile(r"[-+]?0\d[\d_]*"), "leave the zeros at its beginning out, or put it in quotes, for YAML 1.1 takes it for an octal number"),
    (re.compile(r"[-+]?(0b[01_]+|0x[\da-fA-F_]+)"), "write it as a decimal number, or put it in quotes"),
    (re.compile(r"[-+]?\d[\d_]*_[\d_]*(\.[\d_]*)?([eE][-+]?\d+)?"), "leave the underscores out, or put it in quotes"),
    (re.compile(r"="), "put it in quotes"),
]
"""Plain words that YAML 1.1 takes for something else than people, or later versions, do; and what to write."""
EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
"""Numbers that YAML 1.1 takes for text unless they have a dot and a sign."""


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice in one mapping; by the standard the last would win silently."""

    ours = False

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not when the mapping is built, because by then merge keys (<<) have brought in theirs.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' stands twice; remove one", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if self.ours and node.style is None and node.tag != "tag:yaml.org,2002:merge":
            for pattern, fix in QUIRKS:
                if pattern.fullmatch(node.value):
                    raise yaml.constructor.ConstructorError(None, None, f"{node.value} can be read in two ways; {fix}", node.start_mark)
            if EXPONENT.fullmatch(node.value):
                node.tag = "tag:yaml.org,2002:float"
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        # Two escapes of JSON stand for one character beyond the first 65,536.
        return _whole(value) if isinstance(value, str) else value


class _StrictLoader(_Loader):
    """The same for our own files, in which no plain word can be read in two ways."""

    ours = True


def _whole(text: str) -> str:
    """Text whose pairs of surrogates are the characters that they stand for.

    Raises
    ------
    ValueError
        If there is one without the other, such as from an argument that is no UTF-8.
    """
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError(f"{text!r} has a part of a character; write it in UTF-8") from None


@cache
def parse_yaml(text: str, where: str, *, ours: bool = True) -> Any:
    """YAML text as plain values, which are not to be changed: a text that is read again is not parsed again.

    Parameters
    ----------
    text, where
        The text, and where it stands.
    ours
        Whether the project says what it means; words that can be read in two ways are refused then.

    Raises
    ------
    InputError
        If it is not YAML, a key stands twice in it, or a word can be read in two ways.
    """
    try:
        return yaml.load(text, _StrictLoader if ours else _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If it is none, is not UTF-8, or a name stands twice in it.
    """
    try:
        content = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise InputError(f"{where}: not valid JSON: it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not valid JSON: byte {error.start} is not UTF-8") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: holds a {type(content).__name__}, but an object is needed")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the name '{name}' stands twice; remove one")
        content[name] = value
    return content
