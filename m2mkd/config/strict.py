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
LARGEST_YAML = 1 << 18
"""Bytes; a file of configuration has a tenth of it."""
LARGEST_JSON = 1 << 26
"""Bytes; that of a prepared set of a thousand classes has a thousandth of it."""
MOST_VALUES, DEEPEST = 50_000, 50
"""Values of a YAML text with all that its aliases repeat, and how deep they are nested."""
PARSERS_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What parsers and converters raise about a text besides errors of their own."""


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice in one mapping; by the standard the last would win silently."""

    ours = False

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not when the mapping is built, because by then merge keys (<<) have brought in theirs.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping; put it in quotes", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' stands twice; remove one", key.start_mark)
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
        If it is not YAML, a key stands twice in it, a word can be read in two ways, or it is larger or deeper than any configuration.
    """
    if len(text) > LARGEST_YAML:
        raise InputError(f"{where}: is larger than {LARGEST_YAML} characters; a configuration is shorter")
    try:
        loader = (_StrictLoader if ours else _Loader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _values(node, {}, 1)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {error}") from error
    except RecursionError:
        raise InputError(f"{where}: not valid YAML: it is nested too deep") from None
    except PARSERS_ERRORS as error:
        raise InputError(f"{where}: not valid YAML: {error}") from None


def _values(node: yaml.Node, known: dict[yaml.Node, int], depth: int) -> int:
    """How many values a node has, with each as often as an alias repeats it."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep, or within itself")
    if node not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known[node] = 1 + sum(_values(part, known, depth + 1) for part in parts)
        if known[node] > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values, with those that its aliases repeat")
    return known[node]


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If it is none, is not UTF-8, a name stands twice in it, or it is larger than any of this suite.
    """
    if len(text) > LARGEST_JSON:
        raise InputError(f"{where}: is larger than {LARGEST_JSON} bytes; no file of this suite is")
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
